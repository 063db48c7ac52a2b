# apt installs a package from a repository made here, with what comes before and after.
mkdir -p tree/DEBIAN tree/usr/bin repository
cat >tree/DEBIAN/control <<'END'
Package: hello-there
Version: 1.0
Architecture: all
Maintainer: Nobody <nobody@localhost>
Description: says hello
END
printf '#!/bin/sh\necho "postinst $1"\n' >tree/DEBIAN/postinst
printf '#!/bin/sh\necho "prerm $1"\n' >tree/DEBIAN/prerm
printf '#!/bin/sh\necho hello there\n' >tree/usr/bin/hello-there
chmod 755 tree/DEBIAN/p* tree/usr/bin/hello-there
dpkg-deb -Zxz --root-owner-group --build tree repository/hello-there.deb >/dev/null
cd repository
{
    dpkg-deb --field hello-there.deb
    echo "Filename: ./hello-there.deb"
    echo "Size: $(stat -c %s hello-there.deb)"
    echo "SHA256: $(sha256sum hello-there.deb | cut -d' ' -f1)"
} >Packages
echo "deb [trusted=yes] file:$PWD ./" >/etc/apt/sources.list
chmod -R a+rX "$WORK"

apt-get -qq update
apt-cache policy hello-there | grep Candidate
DEBIAN_FRONTEND=noninteractive apt-get -qq -y install hello-there | grep -v ^debconf
dpkg-query -W -f '${Package} ${Version} ${Status}\n' hello-there
hello-there
apt-get -qq -y purge hello-there
dpkg-query -W 2>/dev/null | wc -l
command -v hello-there || echo "gone again"
rm /etc/apt/sources.list
