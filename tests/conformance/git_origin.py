"""Serves git repositories by git's own CGI program, without holding bodies: git_origin.py PORT DIRECTORY"""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROGRAM = [os.path.join(subprocess.check_output(["git", "--exec-path"], text=True).strip(), "git-http-backend")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def pieces(self):
        """The body of the request."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            piece = self.rfile.read(min(left, 65536))
            if not piece:
                return
            left -= len(piece)
            yield piece

    def answer(self):
        path, _, query = self.path.partition("?")
        about = {
            "GIT_PROJECT_ROOT": sys.argv[2],
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "REMOTE_USER": "check",
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        if length := self.headers.get("Content-Length"):
            about["CONTENT_LENGTH"] = length
        program = subprocess.Popen(
            PROGRAM, env=os.environ | about, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

        def feed():
            try:
                for piece in self.pieces():
                    program.stdin.write(piece)
                program.stdin.close()
            except OSError:
                self.close_connection = True

        feeder = threading.Thread(target=feed)
        feeder.start()
        status, fields = "200 OK", []
        while line := program.stdout.readline().rstrip(b"\r\n").decode("latin-1"):
            name, _, value = line.partition(": ")
            if name.lower() == "status":
                status = value
            else:
                fields.append((name, value))
        self.send_response(int(status.split()[0]))
        for field in fields:
            self.send_header(*field)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := program.stdout.read1(65536):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")
        feeder.join()
        program.wait()

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
