"""Starts a server that speaks like an object store, with an empty bucket `abide`, and prints its URL.

    store.py s3|azure

It ends when its input is closed.
"""

import base64
import email.utils
import hashlib
import hmac
import logging
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request


def s3():
    from moto.server import ThreadedMotoServer

    # A line for each request otherwise.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://%s:%s" % server.get_host_and_port()
    urllib.request.urlopen(urllib.request.Request(url + "/abide", method="PUT"), timeout=30).close()
    print(url, flush=True)
    sys.stdin.read()
    server.stop()


# The emulator's account and its key are the same everywhere; its documentation has them.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def azure():
    here = pathlib.Path(__file__).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [here / "node_modules/.bin/azurite-blob", "--silent", "--location", folder]
        command += ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--skipApiVersionCheck", "--disableTelemetry"]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        try:
            url = f"http://127.0.0.1:{port}"
            create_container(server, url)
            print(url, flush=True)
            sys.stdin.read()
        finally:
            server.terminate()
            server.wait()


def create_container(server, url):
    """Asks until the server listens, two minutes at the most."""
    version, resource = "2021-12-02", f"/{ACCOUNT}/abide"
    for attempt in range(1200):
        date = email.utils.formatdate(usegmt=True)
        signed = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}{resource}\nrestype:container"
        mac = hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)
        request = urllib.request.Request(f"{url}{resource}?restype=container", method="PUT")
        request.add_header("x-ms-date", date)
        request.add_header("x-ms-version", version)
        request.add_header("Authorization", f"SharedKey {ACCOUNT}:{base64.b64encode(mac).decode()}")
        try:
            urllib.request.urlopen(request, timeout=30).close()
            return
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{error}: {error.read().decode()}")
        except OSError:
            if server.poll() is not None:
                raise SystemExit("the server ended")
            time.sleep(0.1)
    raise SystemExit("the server does not listen")


if __name__ == "__main__":
    {"s3": s3, "azure": azure}[sys.argv[1]]()
