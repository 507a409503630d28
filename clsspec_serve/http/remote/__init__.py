"""Pictures that clients give by address: fetched from named hosts, and from nowhere else.

`hosts` says which addresses are allowed and `public` where they may lead; `fetcher` follows one,
and `links` all of a request. A server that fetches what it is told to is a way into its network
(server-side request forgery), so all of it is off unless hosts are named.
"""
