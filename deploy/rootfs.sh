#!/bin/sh
# Makes the root file system of an image: a program, the libraries that it loads, authorities for outgoing
# TLS, a user without rights, and the licences. The build stage of the Dockerfile runs it, and so does a
# test, which starts the program in the result.
#
#   deploy/rootfs.sh PROGRAM NEW_FOLDER [MAXIMUM_IN_MB]
set -eu

program=$1
root=$2
maximum=${3:-}
repository=$(dirname "$0")/..
user=65532

if [ -e "$root" ]; then
    echo "$root exists; name a new folder" >&2
    exit 1
fi

mkdir -p "$root/bin" "$root/etc/billing" "$root/etc/ssl/certs" "$root/tmp" "$root/usr/share/doc/billing-service"
strip -o "$root/bin/$(basename "$program")" "$program"
# Each library, and the loader, at the path where the loader looks for it.
ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done

cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp -r "$repository/LICENSE" "$repository/NOTICE" "$repository/LICENSES" "$root/usr/share/doc/billing-service/"
echo "billing:x:$user:$user:billing-service:/data:/nonexistent" > "$root/etc/passwd"
echo "billing:x:$user:" > "$root/etc/group"
# Names are looked up in /etc/hosts, then by DNS.
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
chmod 1777 "$root/tmp"
# The place of a SQLite file, and the only folder that the user may write to.
mkdir "$root/data"
chown "$user:$user" "$root/data"

# Sizes of files, not of blocks.
size=$(find "$root" -type f -printf '%s\n' | awk '{ sum += $1 } END { printf "%d", sum / 1000000 }')
echo "$root: $size MB"
if [ -n "$maximum" ] && [ "$size" -ge "$maximum" ]; then
    echo "the image must be smaller than $maximum MB" >&2
    exit 1
fi
