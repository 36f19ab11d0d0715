from comfy.simulator.server import main

main()
