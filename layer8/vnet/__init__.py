"""The Vnet daemon: one asyncio loop that decides, and one switch thread per Vnet that moves the messages.

daemon ─▶ server (one per Vnet) ─▶ place        the lock, the socket and their names in the file system
                                ├▶ lobby        connections that have said nothing yet
                                ├▶ admission    a connection until it is attached
                                ├▶ session      one attached Vnic, its requests and its end
                                ├▶ switchboard  numbers, handles and commands of the switch
                                ├▶ statistics   health records
                                └▶ status       the segment that tools read without asking
"""
