#!/bin/sh
# What a container of the image does: its first argument names it.
set -e
cd /app
role=$1
case $role in
  hardware | xen | xenstored | dom0 | domu) exec node "services/$role/main.ts" ;;
  keys) exec node tools/container/keys.ts ;;
  guest) exec /app/tools/container/guest.sh ;;
  culvert) shift; exec node tools/culvert/main.ts "$@" ;;
  *) exec "$@" ;;
esac
