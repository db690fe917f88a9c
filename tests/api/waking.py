"""Who is woken by the objects of a namespace, as the API server has them."""

from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import Resource
from graft_operator.engine.watch import Watch


class Woken(set[Key]):
    """In place of a work queue: the keys that were added, in whatever order."""

    add_first = set.add


async def bring(kube: Kube, namespace: str, table: list[Watch], kind: Resource, labels: str = "") -> None:
    """Every object of a kind (with these labels), to the watches of the table whose selectors let it through."""
    for watch in (watch for watch in table if watch.resource is kind):
        for item in await kube.list(kind, Selection(namespace, labels=",".join(filter(None, (watch.labels, labels))))):
            if (key := watch.key(item)) is not None:
                watch.enqueue(key)
