"""A simulator of ComfyUI: its HTTP and WebSocket protocol, and a test card in place of the model's work.

It is for demos and tests on machines without a GPU. It is not ComfyUI and runs no model: it knows the few
node classes that a WAN 2.2 graph needs, waits as long as sampling would take, and draws a video that says
SIMULATED in every frame. What a driver can see is meant to be as in ComfyUI 0.3.64, its oddities included;
with ``--like newer`` as in 0.33.0, where that differs.

A prompt's way: ``Server.post_prompt`` (server.py) checks it (validation.py) and queues it (state.py),
``PromptWorker.work`` (worker.py) runs its nodes and tells the sockets, and ``State.finish`` writes the entry
of the history. The routes under /simulator are its own: a log of what happened, and faults to order.
"""
