"""How much one web process does at the same time: every limit, and how many threads gunicorn needs for them.

A request that waits for something, such as S3 or a slow client, holds its thread meanwhile. For each kind of
waiting there is a limit here. A request beyond a limit gets a 503, or its connection is closed, so that
threads are always left for all other requests.
"""

# Each of these holds one of gunicorn's threads.
SLOW_HEADS = 2  # slow clients: while they send a request's head, or should close their connection
SLOW_CLIENTS = 5  # slow clients: while they send a body, or read their answer
LARGE_BODIES = 3  # requests of more than LARGE bytes, from the first byte to the answer
IMAGE_FETCHES = 4  # images that are fetched from an image_url
IMAGE_DECODES = 8  # images that are decoded, or wait until another one is
STORAGE_CHANGES = 4  # requests that change what S3 holds
READERS_ANSWERED = 3  # waiting readers whose wait is over, while they get their answers
SPARE = 4  # threads that none of these can take
THREADS = SLOW_HEADS + SLOW_CLIENTS + LARGE_BODIES + IMAGE_FETCHES + IMAGE_DECODES + STORAGE_CHANGES
THREADS += READERS_ANSWERED + SPARE

# How many of the LARGE_BODIES are parsed at the same time; the others wait, and hold their threads.
PARSED_BODIES = 2
LARGE = 1024 * 1024  # bytes; while it is parsed, a body of 27 MB takes up to ten times its size in memory

# Clients that wait for a job (?wait=). Meanwhile each holds one of the 800 connections of clients that a
# process may have, but no thread and no connection to Postgres.
READERS = 300
READERS_OF_KEY = 200  # so that no API key takes all places
READERS_TURNED_AWAY = 100  # those beyond, which are answered after a second; the next ones are at once

# Threads beside gunicorn's, for questions to Postgres and S3 that may hang (wanapi/within.py).
HEALTH_THREADS = 2
READY_THREADS = 5  # one for each part of the answer
METRICS_THREADS = 2
