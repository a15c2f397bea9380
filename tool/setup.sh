#!/usr/bin/env bash
# Installs what this machine lacks: the Debian packages of board/debian-host.txt (apt, through sudo where not root)
# and the npm packages of package-lock.json. Says what it does before it does it; silent when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=$(sed 's/#.*//' board/debian-host.txt | xargs)
command -v node >/dev/null && command -v npm >/dev/null || wanted="$wanted nodejs npm"
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' 2>/dev/null | awk '$2 == "installed" { print $1 }')
missing=$(comm -23 <(tr ' ' '\n' <<<"$wanted" | sort -u) <(sort -u <<<"$installed") | xargs)

if [ -n "$missing" ]; then
  echo "  apt   will install: $missing"
  root=""
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      echo "cannot install $missing: neither root nor sudo; install them and run make again" >&2
      exit 1
    }
    root=sudo
  fi
  mkdir -p build
  # The package lists may be absent or old on a fresh machine; a failure shows with the log's end.
  if ! { $root apt-get update && $root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } \
    >build/apt.log 2>&1; then
    tail -n 20 build/apt.log >&2
    echo "cannot install Debian packages: see build/apt.log" >&2
    exit 1
  fi
fi

stamp=node_modules/.gimbal-lock
if ! cmp -s package-lock.json "$stamp"; then
  echo "  npm   will install: the packages of package-lock.json into node_modules/"
  mkdir -p build
  if ! npm ci --ignore-scripts --no-audit --no-fund >build/npm.log 2>&1; then
    tail -n 20 build/npm.log >&2
    echo "cannot install npm packages: see build/npm.log" >&2
    exit 1
  fi
  cp package-lock.json "$stamp"
fi
