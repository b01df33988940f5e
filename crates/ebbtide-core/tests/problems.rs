//! Every message about a declaration, as a person sees it.
#![cfg(feature = "declaration")]

use std::path::PathBuf;

use ebbtide_core::declaration::{PresetFile, Problem, SourceFile, Surroundings, check, check_in};

/// Layers for one case: the administrator's file, then fragments of it.
fn sources(texts: &[&str]) -> Vec<SourceFile> {
    let names = ["ebbtide.toml", "ebbtide.d/10-more.toml", "ebbtide.d/20-even-more.toml"];
    let source = |(name, text): (&str, &&str)| SourceFile {
        name: format!("/etc/ebbtide/{name}"),
        text: (*text).to_owned(),
    };
    names.into_iter().zip(texts).map(source).collect()
}

/// A preset of a package that has mistakes in it, and users with homes of all kinds.
fn surroundings() -> Surroundings {
    let mut surroundings = Surroundings::default();
    surroundings.presets.push(PresetFile {
        name: "broken".to_owned(),
        source: SourceFile {
            name: "/usr/lib/ebbtide/presets.d/broken.toml".to_owned(),
            text: "version = 1\n[[directories]]\npath = \"var/lib/a\"\nclas = \"state\"\n"
                .to_owned(),
        },
    });
    let homes = [
        ("alice", "/home/alice"),
        ("git", "/srv/git"),
        ("nobody", "/nonexistent"),
        ("bin", "/bin"),
    ];
    surroundings.homes =
        homes.map(|(name, home)| (name.to_owned(), PathBuf::from(home))).into_iter().collect();
    surroundings
}

fn rendered(texts: &[&str]) -> String {
    let sources = sources(texts);
    let outcome = check_in(&sources, &surroundings());
    let sources = outcome.sources.clone();
    let errors = outcome.problems.iter().any(Problem::is_error);
    assert_eq!(outcome.declaration.is_none(), errors, "a declaration is there iff no error is");
    let problems: Vec<_> =
        outcome.problems.iter().map(|problem| problem.render(&sources, false)).collect();
    problems.join("\n\n")
}

/// A file with `[root]` and `[store.state]` that has nothing to complain about.
const SOUND: &str = r#"version = 1
[root]
backend = "btrfs"
device = "LABEL=system"
uuid = "6f1f9c1e-8d2b-4c58-9c57-0a5a8f2f7a11"
ephemeral = ["/home", "/root", "/srv"]
[store.state]
subvolume = "state"
"#;

/// A test per group of cases, with one snapshot: name, then what is printed.
macro_rules! cases {
    ($group:ident { $($name:ident = [$($text:expr),+ $(,)?];)+ }) => {
        #[test]
        fn $group() {
            let mut all = String::new();
            $(all += &format!("# {}\n{}\n\n", stringify!($name), rendered(&[$($text),+]));)+
            insta::with_settings!({ omit_expression => true }, {
                insta::assert_snapshot!(stringify!($group), all);
            });
        }
    };
}

macro_rules! keep {
    ($group:ident { $($name:ident = $text:expr;)+ }) => {
        cases! { $group { $($name = [concat!("version = 1\n[keep]\n", $text)];)+ } }
    };
}

macro_rules! root {
    ($group:ident { $($name:ident = $text:expr;)+ }) => {
        cases! { $group { $($name = [concat!(
            "version = 1\n[store.state]\nsubvolume = \"state\"\n[root]\n",
            "ephemeral = [\"/home\", \"/root\", \"/srv\"]\n",
            "uuid = \"6f1f9c1e-8d2b-4c58-9c57-0a5a8f2f7a11\"\n",
            $text,
        )];)+ } }
    };
}

// The file as such.
cases! { file {
    nothing_wrong = [SOUND];
    empty_file = [""];
    syntax = ["version = 1\n[keep\nfiles = []\n"];
    syntax_twice = ["version = \n[keep]\nfiles = [\"/a\" \"/b\"]\n"];
    syntax_bare_mode = ["version = 1\n[keep]\nfiles = [{ path = \"/etc/a\", mode = 0755 }]\n"];
    syntax_control_character = ["version = 1\n# \u{1b}[31mred\u{9b}\u{202e}\n"];
    duplicate_key = ["version = 1\n[root]\nbackend = \"btrfs\"\nbackend = \"btrfs\"\n"];
    version_missing = ["[keep]\ndirectories = [\"/opt\"]\n"];
    version_unknown = ["version = 2\n[kept]\n"];
    version_wrong_type = ["version = \"1\"\n"];
    key_unknown = ["version = 1\n[keep]\ndirectries = []\nglobs = []\n"];
    key_unknown_at_top = ["version = 1\nretention = 3\n[keeep]\n"];
    key_in_wrong_table = ["version = 1\ndirectories = [\"/opt\"]\nbackend = \"btrfs\"\n"];
    key_with_escapes = ["version = 1\n\"\\u001b[31m\" = 1\n"];
    table_wrong_type = ["version = 1\nroot = 1\nstore = []\nkeep = \"/opt\"\n"];
} }

root! { root {
    root_without_keys = "";
    root_backend_unknown = "backend = \"zfs\"\ndevice = \"LABEL=system\"";
    root_backend_close = "backend = \"btfs\"\ndevice = \"LABEL=system\"";
    root_backend_wrong_type = "backend = true\ndevice = 1979-05-27";
    root_device_relative = "backend = \"btrfs\"\ndevice = \"sda2\"";
    root_device_tag_unknown = "backend = \"btrfs\"\ndevice = \"NAME=system\"";
    root_device_tag_lower_case = "backend = \"btrfs\"\ndevice = \"label=system\"";
    root_device_tag_empty = "backend = \"btrfs\"\ndevice = \"UUID=\"";
    root_device_tag_quoted = "backend = \"btrfs\"\ndevice = \"LABEL='system'\"";
    root_device_uuid_odd = "backend = \"btrfs\"\ndevice = \"UUID=system\"";
    root_device_not_in_dev = "backend = \"btrfs\"\ndevice = \"/mnt/image\"";
    root_device_untidy = "backend = \"btrfs\"\ndevice = \"/dev/../etc/passwd\"";
    root_device_control = "backend = \"btrfs\"\ndevice = \"LABEL=a\\nb\"";
    root_container_absolute = "backend = \"btrfs\"\ndevice = \"LABEL=system\"\ncontainer = \"/@ebbtide\"";
    root_container_top_level = "backend = \"btrfs\"\ndevice = \"LABEL=system\"\ncontainer = \"/\"";
    root_container_untidy = "backend = \"btrfs\"\ndevice = \"LABEL=system\"\ncontainer = \"a//b/\"";
    root_container_unsafe = "backend = \"btrfs\"\ndevice = \"LABEL=system\"\ncontainer = \"a,subvol=b\"";
    root_uuid_invalid = "backend = \"btrfs\"\ndevice = \"LABEL=system\"\n[store.more]\nuuid = 1";
    root_options_refused = "backend = \"btrfs\"\ndevice = \"LABEL=system\"\noptions = [\n\
        \"compress=zstd\", \"subvol=root\", \"subvolid=256\", \"ro\", \"relatime\", \"nofail\",\n\
        \"x-systemd.automount\", \"remount\", \"\", \"ssd,discard\", \"a b\", 3,\n]";
    root_mounts = "backend = \"tmpfs\"\ndevice = \"LABEL=system\"\ntmpfs = [\"/a\"]\nmounts = [\n\
        \"/nix\",\n{ path = \"/nix\" },\n{ path = \"/nix/\", device = \"nix\", directory = \"/nix\" },\n\
        { path = \"/usr\", device = \"LABEL=usr\", options = [\"ro\"] },\n\
        { path = \"/usr/local\", device = \"LABEL=usr\" },\n\
        { path = \"/usr\", device = \"LABEL=usr\" },\n{ path = \"/a\", device = \"LABEL=a\" },\n\
        { path = \"/etc\", device = \"LABEL=a\", subvolume = \"etc\", directory = \"etc\" },\n\
        { path = \"/b\", device = \"LABEL=a\", subvol = \"b\", options = [\"nodev\", \"suid\", \"nosuid\", \"rw\"] },\n\
        { path = \"/opt/c\", device = \"LABEL=a\" },\n]\n[keep]\ndirectories = [\"/opt\"]";
    root_audit = "backend = \"tmpfs\"\ndevice = \"LABEL=system\"\naudit = true";
    root_audit_sound = "backend = \"tmpfs\"\ndevice = \"LABEL=system\"\naudit = true\nwritable = false";
    root_require_login = "backend = \"btrfs\"\ndevice = \"LABEL=system\"\nrequire-login = false";
    root_require_login_wrong_type = "backend = \"btrfs\"\ndevice = \"LABEL=system\"\nrequire-login = [\"alice\"]";
    root_require_login_misspelt = "backend = \"btrfs\"\ndevice = \"LABEL=system\"\nrequire_login = false";
    root_audit_wrong_type = "backend = \"tmpfs\"\ndevice = \"LABEL=system\"\naudit = \"yes\"\nwritable = false";
    root_options_alone = "backend = \"btrfs\"\ndevice = \"LABEL=system\"\noptions = \"compress=zstd\"";
} }

cases! { decisions {
    root_uuid_absent = ["version = 1\n[root]\nbackend = \"btrfs\"\ndevice = \"LABEL=a\"\n\
        ephemeral = [\"/home\", \"/root\", \"/srv\"]\n[store.state]\nsubvolume = \"state\"\n"];
    root_uuid_malformed = ["version = 1\n[root]\nbackend = \"btrfs\"\ndevice = \"LABEL=a\"\nuuid = \"1\"\n\
        ephemeral = [\"/home\", \"/root\", \"/srv\"]\n[store.state]\nsubvolume = \"state\"\n"];
    root_decisions_missing = ["version = 1\n[root]\nbackend = \"btrfs\"\ndevice = \"LABEL=a\"\n\
        uuid = \"6f1f9c1e-8d2b-4c58-9c57-0a5a8f2f7a11\"\n[store.state]\nsubvolume = \"state\"\n\
        [keep]\ndirectories = [\"/root/.ssh\"]\n"];
    root_decision_missing = ["version = 1\n[root]\nbackend = \"btrfs\"\ndevice = \"LABEL=a\"\n\
        uuid = \"6f1f9c1e-8d2b-4c58-9c57-0a5a8f2f7a11\"\nephemeral = [\"/srv\"]\n\
        [store.state]\nsubvolume = \"state\"\n[keep]\ndirectories = [\"/home\"]\n"];
    ephemeral_not_asked_for = ["version = 1\n[root]\nbackend = \"btrfs\"\ndevice = \"LABEL=a\"\n\
        uuid = \"6f1f9c1e-8d2b-4c58-9c57-0a5a8f2f7a11\"\n\
        ephemeral = [\"/home\", \"/root\", \"/srv\", \"/srv\", \"/var\"]\n\
        [store.state]\nsubvolume = \"state\"\n"];
    ephemeral_and_kept = [SOUND, "version = 1\n[keep]\ndirectories = [\"/home\", \"/srv/git\"]\n"];
} }

// Stores.
cases! { stores {
    store_state_missing = ["version = 1\n[root]\nbackend = \"btrfs\"\ndevice = \"LABEL=a\"\n\
        uuid = \"6f1f9c1e-8d2b-4c58-9c57-0a5a8f2f7a11\"\nephemeral = [\"/home\", \"/root\", \"/srv\"]\n"];
    store_without_name = ["version = 1\n[store]\ndevice = \"LABEL=a\"\nstate = 1\n"];
    store_name_invalid = ["version = 1\n[store.State]\ndevice = \"LABEL=a\"\n"];
    store_class_unknown = [SOUND, "version = 1\n[store.more]\nsubvolume = \"more\"\nclass = \"secrets\"\n"];
    store_class_strange = [SOUND, "version = 1\n[store.more]\nsubvolume = \"more\"\nclass = \"precious\"\n"];
    store_without_subvolume = [SOUND, "version = 1\n[store.more]\n"];
    store_in_container = [SOUND, "version = 1\n[store.more]\nsubvolume = \"ebbtide/more\"\n"];
    store_around_container = [
        &SOUND.replace("[store", "container = \"system/ebbtide\"\n[store"),
        "version = 1\n[store.more]\ndevice = \"LABEL=system\"\nsubvolume = \"system\"\n",
    ];
    store_on_another_disk = [SOUND, "version = 1\n[store.more]\ndevice = \"LABEL=disk\"\n"];
    stores_in_one_place = [SOUND, "version = 1\n[store.more]\nsubvolume = \"state\"\n"];
    stores_nested = [SOUND, "version = 1\n[store.more]\nsubvolume = \"state/more\"\n"];
    stores_sharing_a_disk = [
        SOUND,
        "version = 1\n[store.a]\ndevice = \"/dev/sdb\"\n[store.b]\ndevice = \"/dev/sdb\"\nsubvolume = \"b\"\n",
    ];
    store_without_root_and_device = ["version = 1\n[store.state]\nsubvolume = \"state\"\n"];
    store_replaced_by_a_later_layer = [SOUND, "version = 1\n[store.state]\n"];
} }

// One entry.
keep! { entries {
    entry_wrong_type = "directories = [1, [\"/opt\"]]";
    entry_alone = "directories = \"/opt\"";
    entry_without_path = "files = [{ mode = \"0600\" }]";
    entry_key_unknown = "files = [{ path = \"/etc/a\", owner = \"root\", mod = \"0600\" }]";
    path_empty = "directories = [\"\"]";
    path_relative = "directories = [\"var/log\", \"./srv\"]";
    path_home = "directories = [\"~/Documents\"]";
    path_root = "directories = [\"/\", \"/..\"]";
    path_with_dots = "directories = [\"/var/./log\", \"/var/../etc/ssh\"]";
    path_with_slashes = "directories = [\"/var//log\", \"/var/log/\"]";
    path_with_nul = "files = [\"/etc/\\u0000\"]";
    path_with_escapes = "files = [\"/etc/\\u001b[31m/\", \"/run/\\u202e\"]";
    path_of_kernel = "directories = [\"/proc\", \"/sys/kernel\", \"/dev/shm\"]";
    path_in_run = "directories = [\"/run/user\", \"/run/ebbtide/stores\", \"/var/run/app\", \"/var/lock\"]";
    path_of_base = "directories = [\"/usr/local\", \"/bin\", \"/sbin/x\", \"/lib64\", \"/libx32/a\", \"/boot/efi\"]";
    path_of_store = "directories = [\"/.ebbtide\"]";
    path_in_tmp = "directories = [\"/tmp\"]";
    path_with_pattern = "directories = [\"/var/lib/docker*\"]";
    mode_integer = "files = [{ path = \"/etc/a\", mode = 755 }, { path = \"/etc/b\", mode = 0o644 }]";
    mode_malformed = "files = [{ path = \"/etc/a\", mode = \"u+rw\" }, { path = \"/etc/b\", mode = \"0799\" }]";
    user_malformed = "files = [{ path = \"/etc/a\", user = \"0day\", group = \"\" }]";
    user_too_long = "files = [{ path = \"/etc/a\", user = \"abcdefghijklmnopqrstuvwxyzabcdefg\" }]";
    user_number_in_quotes = "files = [{ path = \"/etc/a\", user = \"1000\" }]";
    user_number_out_of_range = "files = [{ path = \"/etc/a\", user = -1, group = 4294967295 }]";
    user_wrong_type = "files = [{ path = \"/etc/a\", user = true, group = 1.5 }]";
    parent_wrong = "files = [{ path = \"/etc/a/b\", parent = { user = \"root\", path = \"/etc/a\", mode = 700 } }, { path = \"/etc/c/d\", parent = \"0700\" }]";
    sync_directory = "directories = [{ path = \"/etc/a\", method = \"sync\" }]";
    sync_options = "files = [{ path = \"/etc/a\", method = \"sync\", options = [\"ro\"] }]";
    sync_inside = "directories = [\"/etc/d\"]\nfiles = [{ path = \"/etc/d/a\", method = \"sync\" }]";
    method_unknown = "files = [{ path = \"/etc/a\", method = \"symlnk\" }, { path = \"/etc/b\", method = \"auto\" }, { path = \"/etc/c\", method = \"overlay\" }]";
    option_unknown = "directories = [{ path = \"/a\", options = [\"noexe\", \"rw\", 1] }]";
    option_twice = "directories = [{ path = \"/a\", options = [\"noexec\", \"ro\", \"noexec\"] }]";
    option_of_link = "directories = [{ path = \"/a\", method = \"symlink\", options = [\"noexec\"] }]";
    optional_wrong_type = "directories = [{ path = \"/a\", optional = \"yes\" }]";
    store_of_entry_malformed = "directories = [{ path = \"/a\", store = \"My Store\" }]";
    store_of_entry_unverified = "directories = [{ path = \"/a\", store = \"anything\" }]";
    machine_id_plain = "files = [\"/etc/machine-id\"]";
    machine_id_bound = "files = [{ path = \"/etc/machine-id\", method = \"bind\" }]";
    machine_id_mounted = "files = [{ path = \"/etc/machine-id\", options = [\"ro\"] }]";
    machine_id_directory = "directories = [\"/etc/machine-id\"]";
    below_machine_id = "files = [\"/etc/machine-id/a\"]";
    configuration_linked = "directories = [{ path = \"/etc/ebbtide\", method = \"symlink\" }]";
    below_configuration = "files = [\"/etc/ebbtide/ebbtide.toml\"]";
    above_built_ins = "directories = [\"/etc\"]";
    above_built_ins_linked = "directories = [{ path = \"/etc\", method = \"symlink\" }]";
    twice = "directories = [\"/opt\", { path = \"/opt\", mode = \"0755\" }]";
    twice_as_both = "directories = [\"/opt\"]\nfiles = [\"/opt\"]";
    shadow_of_directory = "directories = [\"/var/log\", \"/var/log/journal\"]\nfiles = [\"/var/log/wtmp\"]";
    shadow_with_purpose = "directories = [\"/var\", { path = \"/var/lib\", options = [\"noexec\"] }, { path = \"/opt\", optional = true }, \"/opt/a\"]";
    shadow_of_file = "directories = [\"/etc/a/b\"]\nfiles = [\"/etc/a\"]";
    shadow_of_link = "directories = [\"/a/b\", { path = \"/a\", method = \"symlink\" }]";
    shadow_by_link = "directories = [{ path = \"/a/b\", method = \"symlink\" }, \"/a\", { path = \"/a/c\", method = \"symlink\", store = \"cache\" }]";
    shadow_of_another_store = "directories = [\"/a\", { path = \"/a/b\", store = \"cache\" }, \"/a/b/c\"]";
} }

// Presets.
keep! { presets {
    preset_unknown = "presets = [\"ssh-host-key\", \"nothing-like-it\"]";
    preset_wrong_type = "presets = [1]";
    preset_alone = "presets = \"logs\"";
    preset_with_mistakes = "presets = [\"broken\"]";
    preset_and_entries = "presets = [\"accounts\", \"logs\", \"machine-id\"]\ndirectories = [\"/var/log\"]\nfiles = [{ path = \"/etc/passwd\", mode = \"0600\" }]";
    preset_for_the_machine_only = "[users.alice]\npresets = [\"logs\"]";
} }

// Users.
cases! { users {
    user_name_wrong = ["version = 1\n[users.1st]\nfiles = [\"a\"]\n[users.\"x$\"]\nfiles = []\n"];
    user_table_missing = ["version = 1\n[users]\nfiles = [\"a\"]\n"];
    user_key_unknown = ["version = 1\n[users.alice]\nfile = [\"a\"]\n"];
    user_entry_with_owner = ["version = 1\n[users.alice]\nfiles = [{ path = \"a\", user = \"root\" }]\n"];
    user_paths_outside = ["version = 1\n[users.alice]\nfiles = [\"/etc/passwd\", \"../bob/a\", \"a/../../b\", \"~/c\", \"~\", \"\", \"./d\"]\n"];
    user_home_itself = ["version = 1\n[users.alice]\ndirectories = [\".\"]\n"];
    user_unknown_here = ["version = 1\n[users.carol]\nfiles = [\".profile\"]\n"];
    user_without_a_home = ["version = 1\n[users.nobody]\nfiles = [\"a\"]\n[users.bin]\nfiles = [\"a\"]\n"];
    user_home_declared_badly = ["version = 1\n[users.alice]\nhome = \"/home\"\nfiles = [\"a\"]\n[users.root]\nhome = \"root\"\n"];
    user_home_is_a_tree_of_the_system = ["version = 1\n[users.alice]\nhome = \"/etc/ssh\"\nfiles = [\"a\"]\n[users.carol]\nhome = \"/var/lib\"\nfiles = [\"a\"]\n"];
    users_with_one_home = ["version = 1\n[users.alice]\nfiles = [\"a\"]\n[users.carol]\nhome = \"/home/alice/sub\"\nfiles = [\"a\"]\n"];
    user_entry_declared_elsewhere = ["version = 1\n[keep]\nfiles = [\"/home/alice/a\"]\n[users.alice]\nfiles = [\"a\"]\n"];
} }

// What hurts later.
cases! { lints {
    mode_looser_than_the_preset = ["version = 1\n[keep]\ndirectories = [{ path = \"/etc/wireguard\", mode = \"0755\" }]\nfiles = [{ path = \"/etc/ssh/ssh_host_rsa_key\", mode = \"0644\" }, \"/etc/ssh/ssh_host_rsa_key.pub\"]\n"];
    sticky_bit_missing = ["version = 1\n[keep]\ndirectories = [{ path = \"/var/spool/cron/crontabs\", mode = \"0730\" }, { path = \"/var/tmp\", mode = \"0777\" }]\n"];
    bound_and_replaced = ["version = 1\n[keep]\nfiles = [{ path = \"/etc/adjtime\", method = \"bind\" }]\n[users.alice]\nfiles = [{ path = \".gitconfig\", method = \"bind\" }]\n"];
    filled_by_the_base = ["version = 1\n[keep]\ndirectories = [\"/etc/systemd\", \"/etc/ssl/certs\", \"/opt/etc/systemd\"]\n"];
    home_open_to_others = ["version = 1\n[keep]\ndirectories = [{ path = \"/home/alice\", mode = \"0775\" }]\n"];
    accounts_apart = ["version = 1\n[keep]\nfiles = [\"/etc/passwd\", \"/etc/group\", { path = \"/etc/gshadow\", method = \"bind\" }]\n"];
    half_a_host_key = ["version = 1\n[keep]\nfiles = [\"/etc/ssh/ssh_host_rsa_key\"]\n"];
    secrets_in_the_open = [SOUND, "version = 1\n[store.cache]\nsubvolume = \"cache\"\nclass = \"cache\"\n[keep]\ndirectories = [{ path = \"/root/.ssh\", store = \"cache\" }, { path = \"/etc/wireguard\", store = \"cache\" }]\n"];
    containers_in_a_nosuid_store = [SOUND, "version = 1\n[store.big]\nsubvolume = \"big\"\noptions = [\"suid\", \"dev\"]\n[keep]\ndirectories = [\"/var/lib/docker\", { path = \"/var/lib/lxc\", store = \"big\" }]\n"];
    home_in_a_relaxed_store = [SOUND, "version = 1\n[store.big]\nsubvolume = \"big\"\noptions = [\"suid\"]\n[users.alice]\ndirectories = [{ path = \"bin\", store = \"big\" }]\n"];
    open_directory_in_a_relaxed_store = [SOUND, "version = 1\n[store.big]\nsubvolume = \"big\"\noptions = [\"dev\"]\n[keep]\ndirectories = [{ path = \"/srv/drop\", mode = \"1777\", store = \"big\" }, { path = \"/srv/data\", mode = \"0755\", store = \"big\" }]\n"];
    open_directory_without_a_sticky_bit = ["version = 1\n[keep]\ndirectories = [{ path = \"/var/spool/app\", mode = \"0777\" }, { path = \"/var/spool/own\", mode = \"0775\" }]\nfiles = [{ path = \"/opt/file\", mode = \"0666\" }]\n"];
    secrets_in_what_holds_them = [SOUND, "version = 1\n[store.cache]\nsubvolume = \"cache\"\nclass = \"cache\"\n[keep]\ndirectories = [{ path = \"/etc/ssh\", store = \"cache\" }, { path = \"/etc/NetworkManager\", store = \"cache\" }, \"/etc/NetworkManager/system-connections\", { path = \"/opt/cache\", store = \"cache\" }]\nfiles = [{ path = \"/root/.ssh/id_rsa\", store = \"cache\" }, { path = \"/etc/wireguard/wg0.conf\", store = \"cache\" }]\n"];
    home_file_of_the_machine = ["version = 1\n[keep]\nfiles = [{ path = \"/home/alice/.gitconfig\", method = \"bind\" }]\n"];
    private_is_no_secret = [SOUND, "version = 1\n[store.cache]\nsubvolume = \"cache\"\nclass = \"cache\"\n[keep]\ndirectories = [{ path = \"/var/cache/private\", store = \"cache\" }]\n"];
    store_options_wrong = [SOUND, "version = 1\n[store.big]\nsubvolume = \"big\"\noptions = [\"nosuid\", \"exec\", \"noexec\", \"ro\"]\n"];
} }

// Layers.
cases! { layers {
    store_of_entry_unknown = [
        SOUND,
        "version = 1\n[keep]\ndirectories = [{ path = \"/a\", store = \"stat\" }, { path = \"/b\", store = \"vault\" }]\n",
    ];
    layers_replace = [
        SOUND,
        "version = 1\n[keep]\ndirectories = [\"/opt\"]\n",
        "version = 1\n[keep]\ndirectories = [{ path = \"/opt\", mode = \"0700\" }]\n",
    ];
    layers_disagree_on_kind = [
        "version = 1\n[keep]\ndirectories = [\"/opt\"]\n",
        "version = 1\n[keep]\nfiles = [\"/opt\"]\n",
    ];
    layers_later_is_covered = [
        "version = 1\n[keep]\ndirectories = [\"/opt\"]\n",
        "version = 1\n[keep]\ndirectories = [\"/opt/a\"]\n",
    ];
    layers_later_covers = [
        "version = 1\n[keep]\ndirectories = [\"/opt/a\"]\n",
        "version = 1\n[keep]\ndirectories = [\"/opt\"]\n",
    ];
    layers_contradict = [
        "version = 1\n[keep]\nfiles = [\"/opt\"]\n",
        "version = 1\n[keep]\ndirectories = [\"/opt/a\"]\n",
    ];
    problems_of_all_files = ["version = 1\n[root]\nbackend = 3\n[store.state]\nclas = 1\n", "verson = 1\n[keep]\nfiles = [\"a\"]\n"];
    nothing_is_missing_where_a_file_is_broken = [
        "version = 1\n[root]\nbackend = \"btrfs\"\ndevice = \"LABEL=a\"\nuuid = \"6f1f9c1e-8d2b-4c58-9c57-0a5a8f2f7a11\"\n",
        "version = 1\n[store.state\n",
    ];
} }

// How much of the past is kept.
root! { retention {
    retention_wrong_types = "backend = \"btrfs\"\ndevice = \"LABEL=a\"\nkeep-boots = 10\n[store.more]\nsubvolume = \"more\"\ntrash = \"1G\"";
    retention_unknown_keys = "backend = \"btrfs\"\ndevice = \"LABEL=a\"\nkeep-boots = { cuont = 1 }\n[store.more]\nsubvolume = \"more\"\ntrash = { count = 1 }";
    retention_numbers = "backend = \"btrfs\"\ndevice = \"LABEL=a\"\nkeep-boots = { min = -1, count = \"10\", days = 0 }";
    retention_free = "backend = \"btrfs\"\ndevice = \"LABEL=a\"\nkeep-boots = { free = \"95%\" }\n[store.more]\nsubvolume = \"more\"\ntrash = { days = 1000000, size = \"big\" }";
    expiry_of_no_cache = "backend = \"btrfs\"\ndevice = \"LABEL=a\"\n[store.more]\nsubvolume = \"more\"\nlimit = \"5G\"\n[store.logs]\nsubvolume = \"logs\"\nclass = \"log\"\nmax-age = \"30d\"";
    expiry_of_nothing = "backend = \"btrfs\"\ndevice = \"LABEL=a\"\n[store.more]\nsubvolume = \"more\"\nclass = \"cache\"\nlimit = \"5\"\nmax-age = \"30\"\n[store.less]\nsubvolume = \"less\"\nclass = \"cache\"\nlimit = 5\nmax-age = \"0d\"";
    retention_less_than_min = "backend = \"btrfs\"\ndevice = \"LABEL=a\"\nkeep-boots = { min = 3, count = 2 }";
    retention_min_follows = "backend = \"btrfs\"\ndevice = \"LABEL=a\"\nkeep-boots = { count = 1 }";
    retention_count_follows = "backend = \"btrfs\"\ndevice = \"LABEL=a\"\nkeep-boots = { min = 11 }";
} }

#[test]
fn long_paths() {
    let long = format!(
        "version = 1\n[keep]\nfiles = [\"/{}\", \"/{}\"]\n",
        "a".repeat(256),
        "b/".repeat(2048)
    );
    let problems: Vec<_> = check(&sources(&[&long])).problems;
    let messages: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
    insta::assert_snapshot!(messages.join("\n"), @r"
    a name in the path is longer than 255 bytes
    the path is longer than the 4095 bytes that the kernel takes
    ");
}

#[test]
fn colours_are_only_added() {
    let sources = sources(&["version = 1\n[keep]\nfiles = [\"a\"]\n"]);
    let problem = &check(&sources).problems[0];
    let coloured = problem.render(&sources, true);
    assert!(coloured.contains("\u{1b}["));
    assert!(!problem.render(&sources, false).contains('\u{1b}'));
}

#[test]
fn container_storage_on_the_root_is_told() {
    let sources = sources(&[SOUND, "version = 1\n[keep]\ndirectories = [\"/var/lib/lxc\"]\n"]);
    let mut surroundings = Surroundings::default();
    for (path, preset) in [("/var/lib/docker", "docker"), ("/var/lib/lxc", "lxc")] {
        surroundings.storage.insert(PathBuf::from(path), preset.to_owned());
    }
    let outcome = check_in(&sources, &surroundings);
    let about = |it: &&Problem| it.message.contains("is on the root");
    let messages: Vec<_> =
        outcome.problems.iter().filter(about).map(|it| it.message.as_str()).collect();
    assert_eq!(messages, ["`/var/lib/docker` has data, and is on the root"]);
}
