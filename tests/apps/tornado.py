"""A Tornado application on the default client for tasks; it answers as ``asgi`` does."""

from __future__ import annotations

import tornado.web

from tests.apps.asgi import said


class Answer(tornado.web.RequestHandler):
    async def get(self) -> None:
        self.finish(await said(self.request.path or ""))


app = tornado.web.Application([(r"/.*", Answer)])
