#!/bin/sh
# lifecycle.sh OLD.deb NEW.deb: installs, upgrades, removes and purges in an
# overlay over this root, in a mount namespace of its own, and checks what is
# there after each step. Nothing of it stays.
set -eu
fail() { echo "lifecycle: $*" >&2; exit 1; }

if [ "${3:-}" != inside ]; then
	here=$(realpath "$0")
	old=$(realpath "$1")
	new=$(realpath "$2")
	top=$(mktemp -d)
	mount -t tmpfs none "$top"
	mkdir "$top/upper" "$top/work" "$top/root"
	mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/root"
	mount -t proc proc "$top/root/proc"
	mount -t tmpfs none "$top/root/run" # no systemd runs there
	mkdir "$top/root/root/lifecycle"
	cp "$here" "$old" "$new" "$top/root/root/lifecycle"
	# No ID of ours, so that this namespace's mounts go with its last process.
	status=0
	chroot "$top/root" sh "/root/lifecycle/$(basename "$here")" "/root/lifecycle/$(basename "$old")" "/root/lifecycle/$(basename "$new")" inside || status=$?
	umount -R "$top/root" "$top"
	rmdir "$top"
	exit $status
fi

export DEBIAN_FRONTEND=noninteractive
has() { [ -e "/usr/lib/systemd/system/$1" ]; }
enabled() { find /etc/systemd/system -type l -name "$1" | grep -q .; }

# Install. What the services are enabled by is their own [Install] section.
dpkg --no-triggers --force-unsafe-io --install "$1"
freezeframe version | head -2
getent group freezeframe >/dev/null || fail "no group freezeframe"
has freezeframe.service || fail "no freezeframe.service"
enabled freezeframe.service || fail "freezeframe.service is not enabled"
[ "$(stat -c %a /etc/freezeframe/config.yaml)" = 644 ] || fail "nobody but root can read the configuration"
freezeframe explain fs.frozen >/dev/null

# A second configure changes nothing, as dpkg --configure after a failure would do.
export DPKG_MAINTSCRIPT_PACKAGE=freezeframe # deb-systemd-helper wants to know
/var/lib/dpkg/info/freezeframe.postinst configure ""
/var/lib/dpkg/info/freezeframe.postinst configure "1.0-1"

# What the administrator did survives an upgrade.
mkdir -p /var/lib/freezeframe/box
echo recording >/var/lib/freezeframe/box/segment
echo 'log: {level: info}' >/etc/freezeframe/config.yaml
find /etc/systemd/system -type l -name 'freezeframe.*' -delete
dpkg --no-triggers --force-unsafe-io --force-confold --install "$2"
grep -q 'level: info' /etc/freezeframe/config.yaml || fail "the upgrade replaced the configuration"
[ -e /var/lib/freezeframe/box/segment ] || fail "the upgrade lost a recording"
[ "$(dpkg-query -W -f '${Version}' freezeframe)" = 1.1-1 ] || fail "not upgraded"
! enabled freezeframe.service || fail "the upgrade enabled what was disabled"

# Back to the old version is refused by nothing.
dpkg --no-triggers --force-unsafe-io --force-confold --install "$1" 2>&1 | grep -v downgrading
dpkg --no-triggers --force-unsafe-io --force-confold --install "$2"

# Removed, what was recorded and configured stays; purged, nothing does.
dpkg --no-triggers --remove freezeframe
[ ! -e /usr/bin/freezeframe ] || fail "the binary is left"
[ -e /var/lib/freezeframe/box/segment ] || fail "a removal lost a recording"
grep -q 'level: info' /etc/freezeframe/config.yaml || fail "a removal lost the configuration"
cp /var/lib/dpkg/info/freezeframe.postrm /root/lifecycle/postrm
dpkg --no-triggers --purge freezeframe
left=$(find /usr /etc /var/lib /run -path /var/lib/dpkg -prune -o -path /usr/local -prune -o -name '*freezeframe*' -print)
[ -z "$left" ] || fail "left after a purge: $left"
/root/lifecycle/postrm purge
echo "installed, upgraded, downgraded, removed and purged"
