# Sourced: a Debian that setup.sh has made.  Needs root, or sudo, and the right to mount.
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

# Run a command in a root directory, with mounts that go with it; a source of PostgreSQL is at /mnt.  The root is a mount of its own, so that
# commands may mount below it.  What certificates are trusted is as here.
inside()
{
	"${as_root[@]}" unshare --mount --pid --fork --kill-child bash -c 'root=$1 source=$2; shift 2
		mount --bind "$root" "$root" && mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" &&
			mount -t tmpfs -o mode=1777 tmpfs "$root/tmp" &&
			{ [ -z "$source" ] || mount --bind "$source" "$root/mnt"; } &&
			trust=/etc/ssl/certs/ca-certificates.crt && { [ ! -e $trust ] || mount --bind $trust "$root$trust"; } &&
			exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 SSL_CERT_FILE=$trust PIP_CERT=$trust \
				${source:+POSTGRES_SOURCE=/mnt} "$@"' \
		_ "$1" "${POSTGRES_SOURCE:-}" "${@:2}"
}

# The tree, as git knows it or could, as a tar file.
tree()
{
	git ls-files -z --cached --others --exclude-standard | tar -c --null --ignore-failed-read -T -
}

# Its /work is the tree.
put_tree()
{
	"${as_root[@]}" rm -rf "$1/work" && "${as_root[@]}" mkdir "$1/work" && tree | "${as_root[@]}" tar -x -C "$1/work"
}
