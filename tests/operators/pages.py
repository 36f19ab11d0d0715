"""The admin's pages, as a browser reads and answers them."""

import html
import re

JOBS, ENGINES, KEYS = "/admin/jobs/job/", "/admin/jobs/engine/", "/admin/jobs/apikey/"


def page(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def listed(client, query=""):
    """The ids on the list page, from the top."""
    return re.findall(r'data-job="([^"]+)"', page(client, JOBS + query))


def cell(text, name):
    found = re.search(rf'<t[dh] class="field-{name}[^"]*">(.*?)</t[dh]>', text)
    return re.sub(r"<[^>]*>", " ", found[1]).strip()


def source(text, tag):
    return html.unescape(re.search(rf'<{tag} src="([^"]+)"', text)[1])


def act(client, action, *jobs, **more):
    """An action on chosen jobs, as the list's form sends it."""
    body = {"action": action, "_selected_action": [str(job.pk) for job in jobs]} | more
    return client.post(JOBS, body, follow=True)


def done(client, action, *jobs):
    """What the page says after an action was confirmed."""
    answer = act(client, action, *jobs, confirmed="yes")
    return [str(message) for message in answer.context["messages"]]


def requeue(client, *jobs):
    return done(client, "requeue", *jobs)
