"""A small service: greets whoever asks, and says on a topic whom it has greeted."""

from layer8 import Request, Vnic


class Greeter:
    """Serves on a Vnic, as long as that is open."""

    def __init__(self, vnic: Vnic) -> None:
        self._vnic = vnic
        self.service = vnic.serve(self._greet)

    def _greet(self, request: Request) -> bytes:
        name = request.payload.decode()
        if not name:
            raise ValueError("a greeting needs a name")
        self._vnic.publish("greeted", request.payload, reliable=True)
        return f"hello, {name}".encode()


def main() -> None:
    with Vnic("greeter", attach_timeout=30.0) as vnic:
        Greeter(vnic).service.wait()


if __name__ == "__main__":
    main()
