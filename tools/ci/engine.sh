#!/usr/bin/env bash
# A Docker engine for the container tests on a machine that has none running (root, Debian).
#   settings=$(engine.sh start) && eval "$settings"
#             prints the variables by which clients find the engine. Where one answers already, it prints only a comment
#   engine.sh stop
#             ends the engine that `start` started, its containers, networks and volumes; another's is left alone
# Its data, socket, log and compose plugin are in CULVERT_ENGINE_DIR (/var/tmp/culvert-engine); images stay there.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin # where dockerd is, whoever asks
tools=$(dirname "$(realpath "$0")")
home=${CULVERT_ENGINE_DIR:-/var/tmp/culvert-engine}
address=unix://$home/docker.sock
limit=60

# belongs PID: the process has our folder in its command line, so that a number used again by a stranger is left alone.
belongs() { [ -n "${1:-}" ] && tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -qF "$home/"; }
engine_pid() { local pid; pid=$(cat "$home/dockerd.pid" 2>/dev/null) && belongs "$pid" && echo "$pid"; }
answering() { timeout 10 docker version >/dev/null 2>&1; }

install_engine() {
  command -v dockerd >/dev/null && command -v docker >/dev/null && return
  echo "installing docker.io" >&2
  {
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends docker.io
  } >"$home/install.log" 2>&1 || { tail -n 15 "$home/install.log" >&2; exit 1; }
}

# Debian 12 has no compose of the second kind; the one of trixie runs on it, as a plugin of the client.
compose_plugin() {
  if docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1; then return; fi
  "$tools/deb.sh" trixie "$home/plugins" docker-compose docker-buildx
  mkdir -p "$home/config"
  ln -sfn "$home/plugins/usr/libexec/docker/cli-plugins" "$home/config/cli-plugins"
  export DOCKER_CONFIG=$home/config
}

# What an engine that was killed leaves: shims with their containers, containerd, mounts. A new one would stumble on them.
clear_remains() {
  local entry pid
  for entry in /proc/[0-9]*; do
    pid=${entry#/proc/}
    case $(tr '\0' ' ' <"$entry/cmdline" 2>/dev/null) in
      *containerd-shim*"$home/"*) xargs -r kill -9 <"$entry/task/$pid/children" || true ;&
      *containerd*"$home/"*) kill -9 "$pid" || true ;;
    esac
  done 2>/dev/null
  awk -v home="$home/" 'index($2, home) == 1 { print $2 }' /proc/self/mounts | sort -r | xargs -r umount --lazy
  rm -rf "$home/exec" "$home/dockerd.pid" "$home/docker.sock"
}

drop_everything() {
  docker ps --all --quiet | xargs -r docker rm --force --volumes >/dev/null
  docker network prune --force >/dev/null
  docker volume ls --quiet | xargs -r docker volume rm --force >/dev/null
}

start() {
  mkdir -p "$home"
  exec 8>"$home/lock"
  flock 8
  install_engine
  if ! engine_pid >/dev/null && answering; then
    compose_plugin
    echo "# a Docker engine is there already"
    [ -z "${DOCKER_CONFIG:-}" ] || echo "export DOCKER_CONFIG=$DOCKER_CONFIG"
    return
  fi
  export DOCKER_HOST=$address
  compose_plugin
  if ! engine_pid >/dev/null; then
    clear_remains
    local route mtu=1500 child
    route=$(awk '$2 == "00000000" { print $1; exit }' /proc/net/route)
    [ -z "$route" ] || mtu=$(cat "/sys/class/net/$route/mtu")
    setsid dockerd --host "$address" --data-root "$home/data" --exec-root "$home/exec" --pidfile "$home/dockerd.pid" \
      --ip 127.0.0.1 --mtu "$mtu" --log-level warn <&- >"$home/dockerd.log" 2>&1 8>&- &
    child=$!
    SECONDS=0
    until answering; do
      if [ $SECONDS -ge $limit ] || [ ! -e "/proc/$child" ]; then
        tail -n 15 "$home/dockerd.log" >&2
        echo "engine.sh: dockerd did not come up ($home/dockerd.log)" >&2
        exit 1
      fi
      sleep 0.2
    done
    drop_everything
  fi
  echo "export DOCKER_HOST=$address TESTCONTAINERS_RYUK_DISABLED=true"
  [ -z "${DOCKER_CONFIG:-}" ] || echo "export DOCKER_CONFIG=$DOCKER_CONFIG"
}

stop() {
  local pid
  pid=$(engine_pid) || return 0
  DOCKER_HOST=$address drop_everything || true
  kill "$pid"
  SECONDS=0
  while belongs "$pid"; do
    [ $SECONDS -lt $limit ] || { echo "engine.sh: dockerd ($pid) does not end" >&2; exit 1; }
    sleep 0.2
  done
}

case ${1:-} in
  start | stop) "$1" ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
