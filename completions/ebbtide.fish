# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_ebbtide_global_optspecs
    string join \n color= h/help V/version
end

function __fish_ebbtide_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_ebbtide_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_ebbtide_using_subcommand
    set -l cmd (__fish_ebbtide_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c ebbtide -n "__fish_ebbtide_needs_command" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_needs_command" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -s V -l version -d 'Print version'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "try" -d 'Runs a command, or a shell, on a throw-away root over this machine'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "rehearse" -d 'Runs a command, or a shell, on the root that the next boot would make'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "init" -d 'Sets a volume up: container, base 1, stores, and a first root'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "apply" -d 'Makes the declaration what the next boot reads, and brings the running system to it'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "accept" -d 'Acknowledges a change that a boot refuses to reset for: a restored backup, an exchanged disk'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "keep" -d 'Declares paths, takes what lies there into a store, and attaches it'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "forget" -d 'Takes paths out of the declaration; what their stores have stays there'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "ignore" -d 'Declares what `diff` need not tell; without a pattern, lists it'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "review" -d 'Decides about changes one at a time: keep, ignore, or neither'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "check" -d 'Finds mistakes in the declaration before the next boot does'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "status" -d 'Proves that this root is new, and that what is declared is in place'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "diff" -d 'Lists what the next reset takes away'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "boots" -d 'Lists past roots: number, age, own size, how each ended'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "log" -d 'Lists all versions of a path: now, in past roots, in the base'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "restore" -d 'Brings files and directories back from past roots'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "flush" -d 'Takes files of the method `sync` back into their stores, now'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "gc" -d 'Deletes past roots and trash that are kept no longer'
complete -c ebbtide -n "__fish_ebbtide_needs_command" -f -a "schema" -d 'Prints a JSON schema: of the declaration, for editors, or of what a command prints'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand try" -l base -d 'Start from this directory instead of from the running system' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand try" -l state -d 'Where the root, what is kept and what was put away lies' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand try" -l config -d 'Keep what this declaration says, instead of `ebbtide.toml` in the state directory' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand try" -l json -d 'Print what the next start takes away as JSON, or write it to a file' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand try" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand try" -l no-network -d 'Have no network but the loopback interface'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand try" -l all -d 'Tell caches, locks and the like too, and what is ignored'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand try" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand rehearse" -l config -d 'Find the container by this declaration, instead of as this boot did' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand rehearse" -l size -d 'How much RAM what is written may take: a share, or bytes with K, M, G or T' -r
complete -c ebbtide -n "__fish_ebbtide_using_subcommand rehearse" -l timeout -d 'How long to wait until the system has settled, in seconds' -r
complete -c ebbtide -n "__fish_ebbtide_using_subcommand rehearse" -l json -d 'Print what is in place and what is not as JSON, or write it to a file' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand rehearse" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand rehearse" -l boot -d 'Boot systemd in it, and list the units that fail'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand rehearse" -l no-network -d 'Have no network but the loopback interface'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand rehearse" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l device -d 'The volume, with btrfs, ext4 or xfs: UUID=, LABEL=, PARTUUID=, PARTLABEL= or a path' -r
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l volume -d 'The same, by a directory where it is mounted' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l backend -d 'How roots are made: `btrfs` where the volume is one, else `overlay`; or `tmpfs`, in RAM' -r -f -a "btrfs\t'Snapshots of a base subvolume'
overlay\t'A directory for what is written, over the base: on ext4, xfs or btrfs'
tmpfs\t'The same in RAM'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l base-directory -d 'Make base 1 as a copy of this directory' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l base-subvolume -d 'Make base 1 as a snapshot of this subvolume, by its path below the top level' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l config -d 'Use this declaration; without one, a first one is written' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l container -d 'Where the container goes, below the volume\'s top level' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l home -d 'Is /home kept whole?' -r -f -a "keep\t'All of it survives'
ephemeral\t'It is as in the base at every boot, but for entries below it'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l root-home -d 'Is /root kept whole?' -r -f -a "keep\t'All of it survives'
ephemeral\t'It is as in the base at every boot, but for entries below it'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l srv -d 'Is /srv kept whole?' -r -f -a "keep\t'All of it survives'
ephemeral\t'It is as in the base at every boot, but for entries below it'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l updaters -d 'What happens to programs that update the system by themselves' -r -f -a "disable\t'Mask their units in the base'
keep\t'Leave them: what they do is gone at the next boot'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l grub -d 'Install GRUB on this disk, with its files in base 1, which no boot can change' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l base-blank -d 'Make base 1 empty, for systems whose own store rebuilds the rest'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -l dry-run -d 'Show what would be done, step by step, and change nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -s y -l yes -d 'Do not ask before starting'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand init" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand apply" -l config -d 'Read this declaration instead of /etc/ebbtide' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand apply" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand apply" -l dry-run -d 'Show what would happen, step by step, and change nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand apply" -l next-boot -d 'Leave the running system as it is'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand apply" -l move-stores -d 'Accept that a store is in another place now, with its data copied there already'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand apply" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand accept" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand accept" -l dry-run -d 'Show what differs, and change nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand accept" -l json -d 'Print JSON'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand accept" -s y -l yes -d 'Do not ask'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand accept" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand keep" -l state -d 'Keep it for the throw-away root whose state is in this directory: it is attached there the next time' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand keep" -l store -d 'The store that keeps it, if not that of the declaration\'s default' -r
complete -c ebbtide -n "__fish_ebbtide_using_subcommand keep" -l method -d 'How it is put in place' -r -f -a "auto\t''
bind\t''
symlink\t''
sync\t''"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand keep" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand keep" -l once -d 'Carry it over the next reset only, and declare nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand keep" -l next-boot -d 'Keep what is in use now from the next boot on, without asking'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand keep" -l dry-run -d 'Show what would be written and done, and change nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand keep" -l json -d 'Print JSON'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand keep" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand forget" -l state -d 'Forget it for the throw-away root whose state is in this directory' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand forget" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand forget" -l move-back -d 'Bring the data back to the root, and move the store\'s own to its trash'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand forget" -l dry-run -d 'Show what would be written and done, and change nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand forget" -l json -d 'Print JSON'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand forget" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand ignore" -l state -d 'Do so for the throw-away root whose state is in this directory' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand ignore" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand ignore" -l undo -d 'Take these patterns out of the declaration, so that what they describe is told again'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand ignore" -l dry-run -d 'Show what would be written, and change nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand ignore" -l json -d 'Print JSON'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand ignore" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand review" -l sort -d 'What comes first: newest or biggest' -r -f -a "newest\t''
biggest\t''"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand review" -l lines -d 'Tell it in this many lines at most' -r
complete -c ebbtide -n "__fish_ebbtide_using_subcommand review" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand review" -l all -d 'Ask about caches, locks and the like too, and what is ignored'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand review" -l dry-run -d 'Show what would be written and done, and change nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand review" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand check" -l config -d 'Check this file alone, instead of the layers of this system' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand check" -l explain -d 'Say which file and line decides what about this path, instead' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand check" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand check" -l presets -d 'List the presets that can be named, instead'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand check" -l json -d 'Print the problems, the presets or the explanation as JSON'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand check" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand status" -l config -d 'Read this declaration instead of /etc/ebbtide' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand status" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand status" -l json -d 'Print JSON'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand status" -l brief -d 'Print one line if something should be looked at, and else nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand status" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand diff" -l boot -d 'The root of this boot, and what the reset after it took away; `last`: the newest past root; `N..M`: what is different in boot M\'s root since boot N, `N..`: in the running one' -r
complete -c ebbtide -n "__fish_ebbtide_using_subcommand diff" -l sort -d 'What comes first: newest or biggest' -r -f -a "newest\t''
biggest\t''"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand diff" -l lines -d 'Tell it in this many lines at most' -r
complete -c ebbtide -n "__fish_ebbtide_using_subcommand diff" -l config -d 'Read this declaration instead of /etc/ebbtide' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand diff" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand diff" -l content -d 'Show what is different in these files, line by line'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand diff" -l kept -d 'List what the next reset keeps instead, and how much that is'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand diff" -l all -d 'List caches, locks and the like too, and what is ignored'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand diff" -l tree -d 'Print a tree of directories, with each path that changed'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand diff" -l json -d 'Print JSON'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand diff" -s 0 -l null -d 'Print each path that is there, and a NUL after it; what was deleted is left out'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand diff" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and not __fish_seen_subcommand_from show mount" -l config -d 'Read this declaration instead of /etc/ebbtide' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and not __fish_seen_subcommand_from show mount" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and not __fish_seen_subcommand_from show mount" -l json -d 'Print JSON'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and not __fish_seen_subcommand_from show mount" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and not __fish_seen_subcommand_from show mount" -f -a "show" -d 'Shows all that is known about one boot: what was reset, what failed, what left the stores'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and not __fish_seen_subcommand_from show mount" -f -a "mount" -d 'Mounts the whole tree of a past root for reading'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and __fish_seen_subcommand_from show" -l config -d 'Read this declaration instead of /etc/ebbtide' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and __fish_seen_subcommand_from show" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and __fish_seen_subcommand_from show" -l json -d 'Print JSON'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and __fish_seen_subcommand_from mount" -l config -d 'Read this declaration instead of /etc/ebbtide' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and __fish_seen_subcommand_from mount" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and __fish_seen_subcommand_from mount" -l dry-run -d 'Say whether it can be mounted, and change nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand boots; and __fish_seen_subcommand_from mount" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand log" -l grep -d 'Tell only versions that have this text in them' -r
complete -c ebbtide -n "__fish_ebbtide_using_subcommand log" -l search -d 'Look for this name below the path, or anywhere; it may be a pattern' -r
complete -c ebbtide -n "__fish_ebbtide_using_subcommand log" -l config -d 'Read this declaration instead of /etc/ebbtide' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand log" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand log" -l json -d 'Print JSON'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand log" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand restore" -l boot -d 'The version that the root of this boot had; `last`: the newest past root; `base`: that of the base' -r
complete -c ebbtide -n "__fish_ebbtide_using_subcommand restore" -l to -d 'Put it into this directory, and not in its own place' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand restore" -l config -d 'Read this declaration instead of /etc/ebbtide' -r -F
complete -c ebbtide -n "__fish_ebbtide_using_subcommand restore" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand restore" -l force -d 'Replace what is there, which goes to the trash'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand restore" -l keep -d 'Keep it from now on: then does what `ebbtide keep PATH` does'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand restore" -l dry-run -d 'Show what would happen, and change nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand restore" -l json -d 'Print JSON'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand restore" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand flush" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand flush" -l dry-run -d 'Show what would happen, and change nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand flush" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand gc" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand gc" -l undeclared -d 'Move what no entry keeps any more to the trash of its store'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand gc" -l dry-run -d 'Show what would happen, and change nothing'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand gc" -l json -d 'Print JSON'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand gc" -s h -l help -d 'Print help'
complete -c ebbtide -n "__fish_ebbtide_using_subcommand schema" -l color -d 'When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is'
always\t'Even into a file'
never\t'Not at all'"
complete -c ebbtide -n "__fish_ebbtide_using_subcommand schema" -s h -l help -d 'Print help'
