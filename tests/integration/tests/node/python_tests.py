"""What the tests of dask-kubernetes ask for, on a cluster that is there already and with another operator.

It takes the place of their conftest.py, which makes a cluster with kind and Docker, and runs the Python operator. Each test has a
namespace, and an operator in it, as there.
"""

import os
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import contextmanager

import pytest

IMAGE = os.environ["TEST_IMAGE"]
PROGRAM = os.environ["TEST_PROGRAM"]
KUBECTL = os.environ["TEST_KUBECTL"]
PATIENCE = 120


class Cluster:
    """What they use of pytest_kind.KindCluster."""

    def kubectl(self, *arguments):
        done = subprocess.run([KUBECTL, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    @contextmanager
    def port_forward(self, target, remote_port, *arguments):
        deadline = time.monotonic() + PATIENCE
        command = [KUBECTL, "port-forward", target, f":{remote_port}", *arguments]
        while True:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
                try:
                    line = forward.stdout.readline()
                    if line.startswith("Forwarding from 127.0.0.1:"):
                        port = int(line.split(":")[1].split(" ")[0])
                        if answers(port):
                            yield port
                            return
                    assert time.monotonic() < deadline, f"{target} does not answer: {line}"
                finally:
                    forward.kill()
            time.sleep(0.5)


def answers(port):
    """Whether there is a listener behind a forwarded port: without one the connection ends at once."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        try:
            return connection.recv(1) != b""
        except TimeoutError:
            return True
        except ConnectionError:
            return False


class Operator:
    """What they use of kopf.testing.KopfRunner."""

    def __init__(self, namespace):
        self.namespace = namespace
        self.exit_code = None
        self.exception = None
        self.log = tempfile.NamedTemporaryFile("r")

    @property
    def output(self):
        with open(self.log.name) as log:
            return log.read()

    def __enter__(self):
        options = ["--namespace", self.namespace, "--operator-namespace", self.namespace, "--standalone", "--disable-plugins"]
        with open(self.log.name, "w") as log:
            self.process = subprocess.Popen([PROGRAM, "run", *options], stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not any("ready" in line.split() for line in self.output.splitlines()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.output
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.exit_code = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
        print(self.output)


@pytest.fixture(scope="session")
def k8s_cluster():
    return Cluster()


@pytest.fixture(scope="session")
def docker_image():
    return IMAGE


@pytest.fixture(autouse=True)
def namespace(k8s_cluster):
    name = "dask-k8s-pytest-" + uuid.uuid4().hex[:10]
    k8s_cluster.kubectl("create", "namespace", name)
    yield name
    k8s_cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found=true")


@pytest.fixture
def kopf_runner(namespace):
    return Operator(namespace)


@pytest.fixture
def anyio_backend():
    return "asyncio"
