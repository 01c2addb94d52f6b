#!/bin/sh
# scale-update.sh HTTP_PORT FOLDER STATE: the update command for the kits' bench/scale.py.
exec curl -sf -o /dev/null -X PUT -H 'X-BackendAI-Token: scale' -H 'Content-Type: application/json' \
  --data-binary "@$2/routes-$3.json" \
  "http://127.0.0.1:$(($1 + 2))/v1/circuits/00000000-0000-4000-8000-000000000000/routes"
