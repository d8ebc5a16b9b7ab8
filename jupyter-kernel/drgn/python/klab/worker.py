"""`python -m klab.worker SOCKET`: the process of the `%%drgn` cells and of `guest.drgn()`.

It serves a Unix socket in klab's private folder, a JSON object a line each way, and ends when its last client has gone.
A request is `{"do": ..., "guest": NAME | "core": PATH, ...}`:

    run       code              a cell; its last expression is its value
    eval      code              an expression; its value as JSON
    object    code              an expression; where its value lies, and its type
    set       name type address a variable that is the object there
    complete  code              what may follow the name at its end
    interrupt                   stops what runs

The replies to it are `{"stream", "text"}` and `{"display"}` while it runs, then one `{"done"}` or `{"error"}`. All code runs
on the main thread, one request after the other: a drgn program may not be used by two threads at once.
"""

import faulthandler
import json
import os
import queue
import signal
import socket
import sys
import threading

from klab.cell import Cells, failure
from klab.values import plain, place


class Client:
    """A connection."""

    def __init__(self, connection):
        self.connection = connection
        self.lock = threading.Lock()

    def say(self, **event):
        """Sends an event; a client that has gone needs none."""
        line = json.dumps(event, default=repr).encode() + b"\n"
        try:
            with self.lock:
                self.connection.sendall(line)
        except OSError:
            pass


class Worker:
    """The requests of all clients, one after the other."""

    def __init__(self):
        self.requests = queue.Queue()
        self.clients = 0
        self.lock = threading.Lock()
        self.running = False
        self.cells = Cells()

    def listen(self, path):
        """The socket; none where another worker has it already."""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(path)
            return None
        except ConnectionRefusedError:
            os.unlink(path)
        except FileNotFoundError:
            pass
        server.bind(path)
        server.listen()
        return server

    def accept(self, server):
        while True:
            connection, _ = server.accept()
            with self.lock:
                self.clients += 1
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        client = Client(connection)
        try:
            with connection.makefile("rb") as lines:
                for line in lines:
                    request = json.loads(line)
                    if request.get("do") == "interrupt":
                        os.kill(os.getpid(), signal.SIGINT)
                    else:
                        self.requests.put((client, request))
        except (OSError, ValueError):
            pass
        with self.lock:
            self.clients -= 1
            if not self.clients:
                self.requests.put(None)

    def interrupted(self, *_):
        if self.running:
            raise KeyboardInterrupt

    def work(self):
        """Does what is asked for, until nobody is there to ask."""
        signal.signal(signal.SIGINT, self.interrupted)
        while item := self.next():
            client, request = item
            self.cells.say = client.say
            try:
                self.running = True
                try:
                    done = self.answer(request)
                finally:
                    self.running = False
            except BaseException as error:  # A cell may raise anything, SystemExit too.
                self.cells.flush()
                client.say(error=failure(error))
            else:
                self.cells.flush()
                client.say(done=done)

    def next(self):
        """The next request; none when the last client has gone."""
        while True:
            item = self.requests.get()
            if item or not self.clients:
                return item

    def answer(self, request):
        do, code = request["do"], request.get("code", "")
        if do == "complete":
            return self.cells.complete(code)
        self.cells.enter(request.get("guest"), request.get("core"))
        match do:
            case "run":
                return self.cells.run(code)
            case "eval":
                return plain(self.cells.evaluate(code))
            case "object":
                return place(self.cells.evaluate(code))
            case "set":
                return self.cells.set(request["name"], request["type"], request["address"])
        raise ValueError(f"no such request: {do}")


def main():
    path = sys.argv[1]
    worker = Worker()
    server = worker.listen(path)
    if server is None:
        return
    # Whoever starts it waits for its end, which says that the socket is there; a child goes on. It is nobody's child
    # then, so that a front end that ends its children does not end it.
    if os.fork():
        os._exit(0)
    os.setsid()
    log = os.open(path + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    faulthandler.enable(log)
    threading.Thread(target=worker.accept, args=(server,), daemon=True).start()
    try:
        worker.work()
    finally:
        for name in (path, path + ".log"):
            try:
                os.unlink(name)
            except FileNotFoundError:
                pass
        # Threads may hold a lock of the interpreter's; there is nothing left to save.
        os._exit(0)


if __name__ == "__main__":
    main()
