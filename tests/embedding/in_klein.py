"""A comet inside a Klein application, whose other routes push to it.

python in_klein.py tcp:8080:interface=127.0.0.1
"""

import sys

from klein import Klein
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource

from cometd_lite import Comet


class Shop:
    """Whoever follows ``orders/7`` is told when order 7 is paid."""

    app = Klein()

    def __init__(self, comet: Comet) -> None:
        self.comet = comet

    @app.route("/comet/", branch=True)
    def mounted(self, request: IRequest) -> IResource:
        return self.comet.resource()

    @app.route("/orders/<int:number>/paid", methods=["POST"])
    async def paid(self, request: IRequest, number: int) -> str:
        receipt = await self.comet.push(f"orders/{number}", {"state": "paid"})
        return f"{receipt.delivered} got it at once\n"


if __name__ == "__main__":
    comet = Comet()
    comet.start()
    Shop(comet).app.run(endpoint_description=sys.argv[1])
