#!/bin/sh
# Makes the packages in DIR, of the binaries DIR/stage/ARCH/freezeframe: `make
# packages` builds those and calls this. The same commit gives the same bytes,
# wherever and whenever it is done.
set -eu
[ $# = 1 ] || { echo "usage: package.sh DIR" >&2; exit 2; }
cd "$(dirname "$0")/.."
out=$(realpath "$1")
stage=$out/stage
go=${GO:-go}
umask 022
export LC_ALL=C TZ=UTC
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
	SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) || { echo "package.sh: not in a git checkout: set SOURCE_DATE_EPOCH" >&2; exit 1; }
fi
export SOURCE_DATE_EPOCH

# v1.2.3 is 1.2.3; five commits later it is 1.2.3+5.gCOMMIT. Before the first tag
# the number of commits orders the versions, all below 0.1.
if [ -z "${PACKAGE_VERSION:-}" ]; then
	if described=$(git describe --tags --match 'v[0-9]*' 2>/dev/null); then
		PACKAGE_VERSION=$(echo "${described#v}" | sed 's/-\([0-9]*\)-g\([0-9a-f]*\)$/+\1.g\2/; s/-/~/g')
	else
		PACKAGE_VERSION="0~$(git rev-list --count HEAD).g$(git rev-parse --short=10 HEAD)"
	fi
	git diff --quiet HEAD -- || PACKAGE_VERSION="$PACKAGE_VERSION+dirty"
fi
export PACKAGE_VERSION

rm -rf "$stage/units" "$stage/manual" "$stage/deb" "$stage/rpm"
mkdir -p "$stage/units"
cp systemd/freezeframe*.service "$stage/units"
for socket in systemd/freezeframe*.socket; do
	[ ! -e "$socket" ] || cp "$socket" "$stage/units"
done
cp -r systemd/deb systemd/rpm systemd/sysusers.conf systemd/tmpfiles.conf systemd/copyright systemd/nfpm.yaml README.md LICENSE docs/causes.md "$stage"
gzip -9nc CHANGELOG.md >"$stage/changelog.gz"

# The binary that this machine can run writes the manual of all.
"$stage/$($go env GOHOSTARCH)/freezeframe" manual "$stage/manual"
gzip -9nf "$stage"/manual/man?/*

# The licences of what is linked in, module by module, and of the page's parts.
{
	$go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/freezeframe | sort -u |
		while read -r path version dir; do
			[ -n "$path" ] || continue # packages of this module, and Go's own
			printf '%s %s\n\n' "$path" "$version"
			find "$dir" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' \) | sort | xargs -r -d '\n' cat
			printf '\n\n'
		done
	for file in reports/page/node_modules/uplot/LICENSE; do
		[ ! -e "$file" ] || { printf 'uPlot\n\n'; cat "$file"; }
	done
	printf 'Go\n\n'
	cat "$($go env GOROOT)/LICENSE"
} | gzip -9nc >"$stage/libraries.gz"

nfpm=$($go tool -modfile=tools/go.mod -n nfpm)
rm -f "$out"/freezeframe[_-]*.deb "$out"/freezeframe-*.rpm
for arch in amd64 arm64; do
	for packager in deb rpm; do
		(cd "$stage" && ARCH=$arch "$nfpm" package --config nfpm.yaml --packager $packager --target "$out/" >/dev/null)
	done
done
ls "$out"/*.deb "$out"/*.rpm
