"""A web server on this machine that serves `files`, and misbehaves as `behaviour[path]` says: a list, one a request."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.behaviour, self.log = {}, {}, []  # log: (path, Range or None)

    def handle_error(self, *_):
        """Clients that go away in the middle are what the tests are about."""

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, asked = self.path.lstrip("/"), self.headers.get("Range")
        self.server.log.append((path, asked))
        how = self.server.behaviour.get(path, [])
        how = how.pop(0) if how else "well"
        body = self.server.files.get(path)
        if isinstance(how, int):
            return self.answer(how, b"an error page", {"Retry-After": "0"} if how == 429 else {})
        if body is None:
            return self.answer(404, b"not here")
        getattr(self, how)(body, int(asked[6:].rstrip("-")) if asked else 0)

    def answer(self, status, body, headers=None, length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def well(self, body, start):
        if start >= len(body) > 0:
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        ranges = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        self.answer(206 if start else 200, body[start:], ranges if start else {})

    def ignores_ranges(self, body, start):
        self.answer(200, body)

    def wrong_range(self, body, start):
        self.answer(206, body, {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"})

    def cut(self, body, start):
        """Half of what remains, then the connection closes."""
        half = body[start : start + (len(body) - start) // 2]
        ranges = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        self.answer(206 if start else 200, half, ranges if start else {}, length=len(body) - start)
        self.close_connection = True

    def cut_silently(self, body, start):
        """Half of it, and no word of how much there should be."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True

    def cut_then_416(self, body, start):
        """Half of it, and for the rest an error that says it is empty."""
        if start:
            return self.answer(416, b"", {"Content-Range": "bytes */0"})
        self.cut(body, 0)

    def short_ranges(self, body, start):
        """Half of it, and of what is then asked for a tenth at a time, which HTTP allows."""
        if not start:
            return self.cut(body, 0)
        some = body[start : start + len(body) // 10]
        self.answer(206, some, {"Content-Range": f"bytes {start}-{start + len(some) - 1}/{len(body)}"})

    def of_another_size(self, body, start):
        self.well(bytes(26), start)

    def huge_length(self, body, start):
        self.answer(200, body[:1000], length=10**15)
        self.close_connection = True

    def strange_length(self, body, start):
        self.answer(200, body, length="abc")
        self.close_connection = True

    def strange_wait(self, body, start):
        self.answer(429, b"", {"Retry-After": "\u00b2"})

    def trickle(self, body, start):
        """A byte now and then."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            for place in range(len(body)):
                self.wfile.write(body[place : place + 1])
                sleep(0.05)
        except OSError:
            self.close_connection = True

    def corrupt(self, body, start):
        self.well(bytes(len(body)), start)

    def longer(self, body, start):
        self.answer(200, body + b"more")

    def endless(self, body, start):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while True:
                self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def drops(self, body, start):
        self.close_connection = True
        self.connection.close()

    def stalls(self, body, start):
        """A little, then nothing for longer than anyone waits."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:1000])
        self.wfile.flush()
        sleep(1)
        self.close_connection = True

    def slow(self, body, start):
        ranges = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        for name, value in (ranges if start else {}).items():
            self.send_header(name, value)
        self.end_headers()
        for place in range(start, len(body), max(1, len(body) // 20)):
            self.wfile.write(body[place : place + max(1, len(body) // 20)])
            sleep(0.02)

    def login_page(self, body, start):
        self.answer(200, b"<html>please log in</html>", {"Content-Type": "text/html"})

    def chunked_page(self, body, start):
        """The same, in a form that says no length beforehand."""
        page = b"<html>please log in</html>"
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(page), page))

    def redirect(self, body, start):
        self.answer(302, b"", {"Location": self.server.url(self.path.lstrip("/"))})

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
