#!/bin/sh
# The database's password: from its secret to libpq, never into an address, an image or a command line.
set -eu
if [ -r /run/secrets/postgres_password ]; then
  PGPASSWORD="$(cat /run/secrets/postgres_password)"
  export PGPASSWORD
fi
exec "$@"
