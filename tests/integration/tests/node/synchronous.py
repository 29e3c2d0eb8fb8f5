"""What people do with KubeCluster. Arguments: namespace, image."""

import sys
import time

from dask.distributed import Client
from dask_kubernetes.operator import KubeCluster

namespace, image = sys.argv[1:]
PATIENCE = 120


def until_workers(client, count):
    deadline = time.monotonic() + PATIENCE
    while (workers := len(client.scheduler_info(n_workers=-1)["workers"])) != count:
        assert time.monotonic() < deadline, f"{workers} workers in the place of {count}"
        time.sleep(0.2)


with KubeCluster(name="demo", namespace=namespace, image=image, n_workers=1, quiet=True) as cluster:
    with Client(cluster) as client:
        until_workers(client, 1)
        assert client.submit(sum, range(10)).result(PATIENCE) == 45
        (data,) = client.scatter([list(range(1000))], hash=False)
        cluster.scale(3)
        until_workers(client, 3)
        squares = client.map(lambda number: number**2, range(100), pure=False)
        assert sum(client.gather(squares)) == 328350
        cluster.add_worker_group("more", n_workers=1)
        until_workers(client, 4)
        cluster.scale(2, worker_group="more")
        until_workers(client, 5)
        cluster.delete_worker_group("more")
        until_workers(client, 3)
        cluster.scale(1)
        until_workers(client, 1)
        assert sum(data.result(PATIENCE)) == 499500

        same = KubeCluster.from_name("demo", namespace=namespace, quiet=True)
        assert len(same.scheduler_info["workers"]) == 1
        same.close()
        assert "Scheduler at:" in str(cluster.get_logs())

        cluster.adapt(minimum=2, maximum=3)
        until_workers(client, 2)
        # More than two workers do within the pause after the change before.
        work = client.map(time.sleep, [1] * 600, pure=False)
        until_workers(client, 3)
        client.cancel(work)
        cluster.scale(1)
        until_workers(client, 1)
