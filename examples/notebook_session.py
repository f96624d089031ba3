"""A session as in a notebook: cells that are run one after the other, some of them again. A Vnet must run.

In a notebook an event loop runs already: there `await AsyncVnic()` works at the top of a cell. A plain Vnic, as here,
works as well; what waits should have a short timeout, and what comes by itself a handler.
"""

# %% attach; running this cell again attaches anew, and the Vnic of before goes when it is closed
from layer8 import Request, Vnic

me = Vnic("example.notebook")
print(me.state)

# %% look around
print([record.alias for record in me.health(alias="example.notebook", state="UP")])

# %% listen in the background: cells stay free
prices: list[str] = []
subscription = me.subscribe("example.notebook.prices", lambda message: prices.append(message.payload.decode()))
print(subscription)


# %% answer others from here
def answer(request: Request) -> bytes:
    return request.payload.upper()


service = me.serve(answer)

# %% ask, for instance oneself
print(me.request("example.notebook", b"hello", timeout=5.0).payload.decode())

# %% publish, and see
for price in ("1.0", "1.1"):
    me.publish("example.notebook.prices", price.encode(), reliable=True)
me.request("example.notebook", b"and wait until the handler is through", timeout=5.0)
print(prices)

# %% a better handler: close the service, serve again
service.close()
service = me.serve(lambda request: request.payload.title())
print(me.request("example.notebook", b"hello again", timeout=5.0).payload.decode())

# %% done
me.close()
print(me.state)
