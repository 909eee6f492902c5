"""A Flask application: content, digests of what is posted, and who asked and who answered."""

import os

import flask
from content import blob, digest

app = flask.Flask(__name__)


@app.after_request
def name_process(response: flask.Response) -> flask.Response:
    response.headers["X-Process"] = str(os.getpid())
    return response


@app.get("/blob/<int:size>")
def get_blob(size: int) -> flask.Response:
    return flask.Response(blob(size), mimetype="application/octet-stream")


@app.post("/digest")
def post_digest() -> str:
    return digest(flask.request.get_data())


@app.get("/parts/<int:count>")
def get_parts(count: int) -> flask.Response:
    """Of unknown length, so that it is sent in chunks."""
    return flask.Response((blob(1000 + number) for number in range(count)), mimetype="a/b")


@app.get("/moved")
def get_moved() -> flask.typing.ResponseReturnValue:
    return flask.redirect("/blob/1000")


@app.get("/who")
def get_who() -> dict[str, object]:
    return {"peer": flask.request.remote_addr, "host": flask.request.host, "pid": os.getpid()}
