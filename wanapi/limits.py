"""What one web process does at once: every bound, and how many threads gunicorn needs for their sum.

A request that has to wait for somebody else holds its thread meanwhile. Each such wait has a bound here, and
what comes beyond it gets a 503 or is dropped, so that threads are always left for all other requests.
"""

# Each of these holds one of gunicorn's threads.
SLOW_HEADS = 2  # clients that stop within a request's head, or do not close
SLOW_CLIENTS = 5  # clients that stop within a body, or do not take their answer
LARGE_BODIES = 3  # requests of more than LARGE bytes, from the first byte to the answer
IMAGE_FETCHES = 4  # of image_url
IMAGE_DECODES = 8  # images that are decoded, or wait until another one is
STORAGE_CHANGES = 4  # requests that change what S3 holds
SPARE = 4  # threads that none of these can take
THREADS = SLOW_HEADS + SLOW_CLIENTS + LARGE_BODIES + IMAGE_FETCHES + IMAGE_DECODES + STORAGE_CHANGES + SPARE

# Of the LARGE_BODIES, those that are taken apart at the same time; the others wait, with their threads.
PARSED_BODIES = 2
LARGE = 1024 * 1024  # bytes; a body of 27 MB takes up to ten times its size while it is taken apart

# Threads beside gunicorn's, for questions that may hang (wanapi/within.py).
HEALTH_THREADS = 2
READY_THREADS = 5  # one for each part of the answer
METRICS_THREADS = 2
