"""Scales from eight workers to three, again and again, while they hold values that can't be computed again, results of tasks
that count their executions, and run more of those; says what was lost. Arguments: namespace, image, how often."""

import sys
import time

from dask.distributed import Client, wait
from dask_kubernetes.operator import KubeCluster

namespace, image, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
PATIENCE = 240
TASKS = 40
# The others run while workers go: fewer seconds than the operator gives a worker to finish what it has begun.
TASKS_BEFORE, SECONDS = 16, 2


def until_workers(client, count):
    deadline = time.monotonic() + PATIENCE
    while len(workers := list(client.scheduler_info(n_workers=-1)["workers"])) != count:
        assert time.monotonic() < deadline, f"{len(workers)} workers in the place of {count}"
        time.sleep(0.2)
    return workers


def counted(number, seconds=0):
    from distributed import get_worker

    time.sleep(seconds)
    get_worker().log_event("executed", number)
    return number


lost = 0
with KubeCluster(name="values", namespace=namespace, image=image, n_workers=8, quiet=True) as cluster:
    with Client(cluster) as client:
        for round_ in range(rounds):
            cluster.scale(8)
            workers = until_workers(client, 8)
            values = {worker: client.scatter(worker.encode() * 1000, workers=[worker], hash=False) for worker in workers}
            first, end = round_ * TASKS, (round_ + 1) * TASKS
            done = client.map(counted, range(first, first + TASKS_BEFORE), pure=False)
            wait(done)
            running = client.map(counted, range(first + TASKS_BEFORE, end), seconds=SECONDS, pure=False)
            wait(running, return_when="FIRST_COMPLETED")
            cluster.scale(3)
            until_workers(client, 3)
            for worker, value in values.items():
                try:
                    lost += value.result(PATIENCE) != worker.encode() * 1000
                except Exception as error:
                    print(f"round {round_}: the value of {worker}: {error!r}")
                    lost += 1
            results = client.gather(done + running)
            assert results == list(range(first, end)), results
            client.cancel(list(values.values()) + done + running)
        executed = [number for _, number in client.get_events("executed")]
        again = len(executed) - len(set(executed))
        assert len(set(executed)) == rounds * TASKS, executed
print(f"{lost} lost, {again} computed again")
