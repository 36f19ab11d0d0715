#!/bin/sh
# docker compose run --rm check: what would keep ComfyUI from working, a line each: "ok", or what to do. It runs in
# ComfyUI's image, as ComfyUI's user and with its folders; exit code 1 if something is wrong.
home=${COMFYUI_HOME:-/opt/ComfyUI} preset=${WORKFLOW_PRESET:-quality} root=${CHECK_ROOT:-}
failed=0

# Of each preset, below models/; test_docker.py compares them with the graphs.
quality="
diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors
diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors
diffusion_models/wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors
diffusion_models/wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors
text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors
vae/wan_2.1_vae.safetensors"
fast="
loras/wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors
loras/wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors
loras/wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors
loras/wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors"

ok() { echo "ok     $*"; }
note() { echo "note   $*"; }
wrong() {
    echo "WRONG  $*"
    failed=1
}

check_driver() {
    version=$(sed -n '1s/.* \([0-9][0-9]*\.[0-9.]*\) .*/\1/p' "$root/proc/driver/nvidia/version" 2> /dev/null)
    if [ -z "$version" ]; then
        wrong "driver: the kernel of this machine has no NVIDIA driver. Install it and restart the machine."
    elif [ "${version%%.*}" -lt 525 ]; then
        wrong "driver: $version is too old for CUDA 12, which needs 525 or later. Install a newer one, and restart."
    else
        ok "driver: $version"
    fi
}

# Docker finds a GPU by this program. Whether it works only a container with a GPU can tell.
check_toolkit() {
    if [ -e "$root/host/usr/bin/nvidia-container-runtime-hook" ] || [ -e "$root/host/usr/bin/nvidia-ctk" ]; then
        ok "toolkit: it is installed; whether Docker uses it: docker compose run --rm --no-deps --entrypoint nvidia-smi comfyui"
    else
        wrong "toolkit: the NVIDIA Container Toolkit is not in /usr/bin of this machine. Install it and restart Docker."
    fi
}

check_home() {
    elsewhere=$(find / -xdev -maxdepth 5 -name folder_paths.py 2> /dev/null | head -n 1)
    if [ -e "$home/folder_paths.py" ]; then
        ok "home folder: ComfyUI lies in $home"
    elif [ -n "$elsewhere" ]; then
        wrong "home folder: ComfyUI lies in ${elsewhere%/*} and not in $home. Set COMFYUI_HOME=${elsewhere%/*} in .env."
    else
        note "home folder: the image has no ComfyUI before it starts. See its documentation for COMFYUI_HOME, now $home."
    fi
}

writable() {
    probe=$1/.wanapi-check
    (: > "$probe") 2> /dev/null && rm -f "$probe"
}

check_owner() {
    for folder in input output; do
        if ! writable "$home/$folder"; then
            wrong "$folder: user $(id -u) cannot write there. Set COMFYUI_USER to its owner, $(stat -c %u "$home/$folder"), or give it to user $(id -u)."
        elif [ -n "$(find "$home/$folder/wanapi" ! -user "$(id -u)" 2> /dev/null | head -n 1)" ]; then
            wrong "$folder: there are files of another user below wanapi/, which user $(id -u) may not remove. Give them to user $(id -u)."
        else
            ok "$folder: user $(id -u) can write there"
        fi
    done
}

check_user() {
    own=$(cat "$root/var/tmp/wanapi-user" 2> /dev/null || id -u)
    [ "$own" = "$(id -u)" ] ||
        note "user: the image by itself runs as user $own, here as $(id -u). If ComfyUI does not start, set COMFYUI_USER=$own."
}

free_mb() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }

check_space() {
    if [ "$(free_mb "$home/output")" -lt 5000 ]; then
        wrong "disk: output has $(free_mb "$home/output") MB free, and videos that wait need up to 5000. Make room."
    else
        ok "disk: output has $(($(free_mb "$home/output") / 1000)) GB free"
    fi
}

check_models() {
    files=$quality needed=64000 missing=0
    case $preset in
        quality) ;;
        fast) files=$quality$fast needed=70000 ;;
        *)
            note "models: $preset is a preset of your own; manage.py check_presets --url says what it lacks"
            return
            ;;
    esac
    for file in $files; do
        [ -s "$home/models/$file" ] || missing=$((missing + 1))
    done
    if [ $missing = 0 ]; then
        ok "models: every file of the preset $preset is there"
        return
    fi
    wrong "models: $missing files of the preset $preset are missing. Bring them: docker compose run --rm models"
    needed=$((needed - $(du -sm "$home/models" 2> /dev/null | cut -f1)))
    [ "$(free_mb "$home/models")" -ge $needed ] ||
        wrong "disk: models has $(free_mb "$home/models") MB free, and about $needed are needed. Make room, or set COMFYUI_MODELS."
    writable "$home/models" ||
        wrong "models: user $(id -u) cannot write there. Set COMFYUI_USER to its owner, $(stat -c %u "$home/models"), or give it to user $(id -u)."
}

if [ -n "${SIMULATOR:-}" ]; then
    ok "driver, toolkit, models: the simulator needs none"
else
    check_driver
    check_toolkit
    check_home
    check_user
    check_models
fi
check_owner
check_space
[ $failed = 0 ] || echo "Not everything fits: see the lines with WRONG. More: docs/docker.md."
exit $failed
