set -e
sed -i 's/^127.0.1.1.*/127.0.1.1 replaced/' /etc/hosts
useradd --create-home --shell /bin/bash bob
echo alice:secret | chpasswd
install -d -o bob -g bob /home/bob/Documents
runuser -u bob -- sh -c 'echo of bob >/home/bob/Documents/letter'
runuser -u alice -- sh -ec '
    cd
    echo of alice >Documents/letter
    git config --global user.name Alice
    git config --global user.name "Alice again"
    mkdir -p .ssh
    for host in one two; do
        echo "$host $(cut -d" " -f1,2 /etc/ssh/ssh_host_ed25519_key.pub)"
    done >.ssh/known_hosts
    ssh-keygen -q -R one
    HISTFILE=~/.bash_history bash -ic "history -c; history -s replaced; history -w" 2>/dev/null
    cp .bash_history .new-history && echo and renamed >>.new-history && mv .new-history .bash_history
    echo x >stray
'
