#!/bin/bash
# Succeeds where the service in this container does its job: GET / on CULVERT_HEALTH_PORT answers 200. With the argument
# "vacant" a service that does not listen yet is well as long as it is connected to the broker, waiting to be taken.
# Bash's own sockets, since a check every second should not start a node.
if exec 3<>"/dev/tcp/127.0.0.1/$CULVERT_HEALTH_PORT"; then
  printf 'GET / HTTP/1.0\r\n\r\n' >&3
  IFS= read -r -t 3 status <&3
  echo "$status"
  [[ $status == *' 200 '* ]]
  exit
fi 2>/dev/null
[[ ${1:-} == vacant ]] || exit 1
# Columns of /proc/net/tcp: the far end (address:port) is the third, the state the fourth, 01 for established.
port=$(printf '%04X' "${NATS_URL##*:}")
while read -r _ _ far state _; do
  [[ $state == 01 && ${far##*:} == "$port" ]] && exit 0
done < <(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null)
exit 1
