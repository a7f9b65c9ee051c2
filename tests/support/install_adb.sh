#!/usr/bin/env bash
# Installs the `adb` client, which the tests of the Android benchmark use: Debian's or Ubuntu's
# package. Without it those tests are skipped.
set -euo pipefail
command -v adb >/dev/null && exit
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update --quiet
"${as_root[@]}" apt-get install --yes --no-install-recommends adb
