//! Each test states one fact about the file's form; errors are compared as the reader sees them.

use proptest::prelude::*;

use super::*;

const GOOD: &str = "\
version = 1

[hypervisor]
log = \"debug\"

[[vm]]
name = \"linux\"
memory = \"256M\"
kernel = \"guest/vmlinuz\"
initrd = \"guest/initrd\"
cmdline = \"console=ttyS0 quiet\"

[vm.test]
exit-port = true
withhold = [\"timer\", \"serial\"]
";

fn message(text: &str) -> String {
    let error = parse("kerf.toml", text).expect_err("the text is wrong");
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message:?} is more than one line");
    message
}

/// The message for the good file with one line replaced.
fn with(line: &str, replacement: &str) -> String {
    assert!(GOOD.contains(line));
    message(&GOOD.replace(line, replacement))
}

#[test]
fn good_file_is_read_whole() {
    let config = parse("kerf.toml", GOOD).unwrap();
    assert_eq!(config.hypervisor.log, LogLevel::Debug);
    let [vm] = &config.vms[..] else { panic!("one VM") };
    assert_eq!((vm.name.as_str(), vm.memory_bytes), ("linux", 256 << 20));
    assert_eq!((vm.kernel.as_str(), vm.initrd.as_deref()), ("guest/vmlinuz", Some("guest/initrd")));
    assert_eq!(vm.cmdline, "console=ttyS0 quiet");
    assert!(vm.test.exit_port && !vm.test.save_restore && !vm.test.views);
    assert_eq!(vm.test.withhold, [Withheld::Timer, Withheld::Serial]);
}

#[test]
fn short_file_has_defaults() {
    let text = "version = 1\n[[vm]]\nname = \"a\"\nmemory = \"2097152\"\nkernel = \"k\"\n";
    let config = parse("kerf.toml", text).unwrap();
    assert_eq!(config.hypervisor.log, LogLevel::Info);
    let vm = &config.vms[0];
    assert_eq!((vm.memory_bytes, &vm.initrd, vm.cmdline.as_str()), (2 << 20, &None, ""));
    assert_eq!(vm.test, TestSwitches::default());
    assert_eq!((vm.vcpus, &vm.cpus, vm.loader), (1, &None, Loader::Auto));
    assert_eq!((vm.idle, vm.on_reset), (Idle::Exit, OnReset::End));
    let (allow, fault) = (Policy::Allow, Policy::Fault);
    assert_eq!(vm.unknown, Unknown { ports: allow, mmio: allow, msrs: fault });
    assert_eq!((&vm.cpuid, &vm.emulate[..]), (&Cpuid::default(), &[][..]));
    let hypervisor = &config.hypervisor;
    assert_eq!((hypervisor.background, hypervisor.slice_us), (Background::Show, 2000));
    assert!(hypervisor.consoles.is_none() && !hypervisor.share_smt && !hypervisor.share_cpus);
}

#[test]
fn every_key_is_read() {
    let text = "
version = 1
[hypervisor]
consoles = [\"serial\", \"debug-port\", \"screen\"]
background = \"keep\"
share-smt = true
share-cpus = true
slice-us = 500
[[vm]]
name = \"a\"
vcpus = 2
cpus = [3, 1]
memory = \"2M\"
loader = \"multiboot\"
kernel = \"k\"
initrd = \"i\"
modules = [\"m\", \"n/o\", \"m\"]
idle = \"guest\"
emulate = [\"movdir64b\"]
on-reset = \"restart\"
[vm.unknown]
msrs = \"allow\"
ports = \"fault\"
mmio = \"stop\"
[vm.cpuid]
physical-bits = 36
tsc-khz = 250000
mask = [{ leaf = 7, subleaf = 0, ebx = 0xfffe_ffff }, { leaf = 1, ecx = 0 }]
[vm.test]
save-restore = true
views = true
";
    let Config { hypervisor, vms, .. } = parse("kerf.toml", text).unwrap();
    let consoles = [Console::Serial, Console::DebugPort, Console::Screen];
    assert_eq!(hypervisor.consoles.as_deref(), Some(&consoles[..]));
    assert_eq!((hypervisor.background, hypervisor.slice_us), (Background::Keep, 500));
    assert!(hypervisor.share_smt && hypervisor.share_cpus);
    let vm = &vms[0];
    assert_eq!((vm.vcpus, vm.cpus.as_deref()), (2, Some(&[3, 1][..])));
    assert_eq!(
        (vm.loader, vm.idle, vm.on_reset),
        (Loader::Multiboot, Idle::InGuest, OnReset::Restart)
    );
    assert_eq!(vm.emulate, [Emulated::Movdir64b]);
    let files: Vec<_> = vm.files().collect();
    assert_eq!(
        files,
        [("kernel", "k"), ("initrd", "i"), ("modules", "m"), ("modules", "n/o"), ("modules", "m")]
    );
    let (ports, mmio, msrs) = (Policy::Fault, Policy::Stop, Policy::Allow);
    assert_eq!(vm.unknown, Unknown { ports, mmio, msrs });
    let all = u32::MAX;
    let first =
        CpuidMask { leaf: 7, subleaf: Some(0), eax: all, ebx: !0x1_0000, ecx: all, edx: all };
    let second = CpuidMask { leaf: 1, subleaf: None, eax: all, ebx: all, ecx: 0, edx: all };
    assert_eq!(
        vm.cpuid,
        Cpuid {
            mask: vec![first, second],
            physical_bits: Some(36),
            tsc_khz: 250_000.try_into().ok()
        }
    );
    assert!(vm.test.save_restore && vm.test.views);
}

#[test]
fn numbers_out_of_range_say_the_range() {
    for (line, expected) in [
        ("vcpus = 0", "vm.vcpus: 0 is not a number of vCPUs; write 1 to 255"),
        ("vcpus = 256", "vm.vcpus: 256 is not a number of vCPUs; write 1 to 255"),
        (
            "cpuid.physical-bits = 31",
            "vm.cpuid.physical-bits: 31 is not a width of addresses; write 32 to 52",
        ),
    ] {
        let text = with("name = \"linux\"", &format!("name = \"linux\"\n{line}"));
        assert_eq!(text, format!("kerf.toml:8: {expected}"));
    }
    assert_eq!(
        with("log = \"debug\"", "slice-us = 99"),
        "kerf.toml:4: hypervisor.slice-us: 99 is not the length of a time slice; write 100 to 1000000 \
         microseconds"
    );
}

#[test]
fn each_vcpu_has_one_cpu_of_its_own() {
    for (line, expected) in [
        (
            "vcpus = 2\ncpus = [0]",
            "kerf.toml:9: vm.cpus: 1 CPUs for 2 vCPUs; write one CPU for each, or leave the key out",
        ),
        (
            "cpus = []",
            "kerf.toml:8: vm.cpus: 0 CPUs for 1 vCPUs; write one CPU for each, or leave the key out",
        ),
        (
            "cpus = [1, 2, 1]\nvcpus = 3",
            "kerf.toml:8: vm.cpus: CPU 1 is there twice; give each vCPU of a VM a CPU of its own",
        ),
    ] {
        assert_eq!(with("name = \"linux\"", &format!("name = \"linux\"\n{line}")), expected);
    }
}

#[test]
fn vms_share_a_cpu_only_where_the_file_says_so() {
    let first = GOOD.replace("name = \"linux\"", "name = \"linux\"\nvcpus = 2\ncpus = [0, 1]");
    let second = "[[vm]]\nname = \"b\"\nmemory = \"2M\"\nkernel = \"k\"\ncpus = [1]\n";
    let text = format!("{first}{second}");
    assert_eq!(
        message(&text),
        "kerf.toml:22: vm.cpus: CPU 1 is also VM \"linux\"'s; choose another, or write \
         `share-cpus = true` in [hypervisor] to let them take turns"
    );
    assert!(parse("k", &text.replace("log = ", "share-cpus = true\nlog = ")).is_ok());
    assert!(parse("k", &text.replace("cpus = [1]", "cpus = [2]")).is_ok());
}

#[test]
fn linux_takes_no_modules() {
    let lines = |loader| format!("name = \"linux\"\nmodules = [\"m\"]\nloader = {loader:?}");
    assert_eq!(
        with("name = \"linux\"", &lines("linux")),
        "kerf.toml:8: vm.modules: Linux takes no modules; write `initrd`, or another `loader`"
    );
    assert!(parse("k", &GOOD.replace("name = \"linux\"", &lines("pvh"))).is_ok());
    assert!(with("name = \"linux\"", &lines("efi")).contains("unknown variant `efi`"));
}

#[test]
fn sizes_have_suffixes() {
    for (text, bytes) in [("2048K", 2 << 20), ("2G", 2 << 30), ("1T", 1 << 40)] {
        let config = parse("k", &GOOD.replace("256M", text)).unwrap();
        assert_eq!(config.vms[0].memory_bytes, bytes);
    }
}

#[test]
fn wrong_size_names_line_and_key() {
    for bad in ["12Q", "", "M", "0x10M", "-2M", "256m", "1.5G", "99999999999T", "2M2"] {
        assert_eq!(
            with("256M", bad),
            format!("kerf.toml:8: vm.memory: {bad:?} is not a size; write for example \"256M\"")
        );
    }
}

#[test]
fn memory_is_a_positive_multiple_of_2_mib() {
    for bad in ["0", "0M", "3M", "4095K"] {
        assert_eq!(
            with("256M", bad),
            format!(
                "kerf.toml:8: vm.memory: {bad:?} is not a multiple of 2M above zero; write for \
                 example \"256M\""
            )
        );
    }
}

#[test]
fn unknown_key_is_refused_with_its_neighbour() {
    assert_eq!(
        with("memory =", "memry ="),
        "kerf.toml:8: vm.memry: unknown key `memry`, expected one of `name`, `vcpus`, `cpus`, `memory`, \
         `loader`, `kernel`, `initrd`, `modules`, `cmdline`, `device`, `vdev`, `unknown`, `idle`, `emulate`, `on-reset`, `on-fault`, `reserved-devices`, `cpuid`, \
         `test`; did you mean `memory`?"
    );
    assert_eq!(
        with("exit-port", "exit_port"),
        "kerf.toml:14: vm.test.exit_port: unknown key `exit_port`, expected one of \
         `exit-port`, `withhold`, `save-restore`, `views`; did you mean `exit-port`?"
    );
    assert_eq!(
        with("log =", "colour ="),
        "kerf.toml:4: hypervisor.colour: unknown key `colour`, expected one of `mode`, `iommu`, `log`, \
         `consoles`, `background`, `share-smt`, `share-cpus`, `slice-us`"
    );
    assert!(with("[hypervisor]", "[hypervizor]").contains("did you mean `hypervisor`?"));
}

#[test]
fn missing_key_names_the_section() {
    assert_eq!(with("memory = \"256M\"\n", ""), "kerf.toml:6: vm: missing key `memory`");
    assert_eq!(with("name = \"linux\"\n", ""), "kerf.toml:6: vm: missing key `name`");
}

#[test]
fn wrong_type_says_which_is_right() {
    assert_eq!(
        with("\"256M\"", "256"),
        "kerf.toml:8: vm.memory: invalid type: integer `256`, expected a string"
    );
    assert_eq!(
        with("exit-port = true", "exit-port = 1"),
        "kerf.toml:14: vm.test.exit-port: invalid type: integer `1`, expected a boolean"
    );
}

#[test]
fn unknown_words_are_refused_with_the_known_ones() {
    assert_eq!(
        with("\"debug\"", "\"loud\""),
        "kerf.toml:4: hypervisor.log: unknown variant `loud`, expected one of `error`, `warn`, \
         `info`, `debug`, `trace`"
    );
    assert_eq!(
        with("\"serial\"]", "\"nic\"]"),
        "kerf.toml:15: vm.test.withhold: unknown variant `nic`, expected `timer` or `serial`"
    );
}

#[test]
fn syntax_error_has_line_and_column() {
    let text = with("name = \"linux\"", "name = \"linux");
    assert!(text.starts_with("kerf.toml:7: column "), "{text}");
    assert!(text.contains("not TOML: "), "{text}");
    let twice = with("name = \"linux\"", "name = \"linux\"\nname = \"b\"");
    assert!(twice.starts_with("kerf.toml:8: column 1: not TOML: duplicate key"), "{twice}");
}

#[test]
fn version_is_required_and_known() {
    assert_eq!(
        with("version = 1\n", "\n"),
        "kerf.toml:1: version: there is no version; write `version = 1` first"
    );
    // Before all else: the keys of another version are not judged.
    assert_eq!(
        with("version = 1\n", "version = 2\nfuture = true\n"),
        "kerf.toml:1: version: version 2 is not known to this build; write `version = 1`"
    );
    assert_eq!(
        with("version = 1\n", "version = \"1\"\n"),
        "kerf.toml:1: version: invalid type: string \"1\", expected i64"
    );
    assert!(message("").contains("there is no version"));
}

#[test]
fn at_least_one_vm() {
    assert_eq!(
        message("version = 1\n"),
        "kerf.toml:1: vm: there is no VM; add a section [[vm]] with name, memory, kernel"
    );
    assert_eq!(
        with("[[vm]]", "[vm]"),
        "kerf.toml:6: vm: VMs are a list; write [[vm]] with two brackets"
    );
}

#[test]
fn names_are_unique() {
    let second = "[[vm]]\nname = \"b\"\nmemory = \"2M\"\nkernel = \"k\"\n";
    assert_eq!(parse("k", &format!("{GOOD}{second}")).unwrap().vms.len(), 2);
    assert_eq!(
        message(&format!("{GOOD}{}", second.replace("\"b\"", "\"linux\""))),
        "kerf.toml:17: vm.name: \"linux\" is also another VM's name; give each VM a name of its own"
    );
}

#[test]
fn names_are_words() {
    for bad in ["", "a b", "ä", "a/b", "a.b"] {
        assert_eq!(
            with("\"linux\"", &format!("{bad:?}")),
            format!(
                "kerf.toml:7: vm.name: {bad:?} is not a name; write letters, digits, `-` and `_`, \
                 at least one"
            )
        );
    }
}

#[test]
fn paths_stay_below_the_folder() {
    let long = "x".repeat(MAX_PATH_BYTES + 1);
    for (bad, fault) in [
        ("", PathFault::Empty),
        ("/vmlinuz", PathFault::Absolute),
        ("../vmlinuz", PathFault::Parent),
        ("a/../../b", PathFault::Parent),
        ("a//b", PathFault::Part),
        ("./a", PathFault::Part),
        ("a/", PathFault::Part),
        ("a\\\\b", PathFault::Backslash),
        ("c:/a", PathFault::Character(':')),
        ("a\\u0000", PathFault::Character('\0')),
        (long.as_str(), PathFault::Length(MAX_PATH_BYTES + 1)),
    ] {
        for (good, key) in [("guest/vmlinuz", "vm.kernel"), ("guest/initrd", "vm.initrd")] {
            let error = parse("kerf.toml", &GOOD.replace(good, bad)).unwrap_err();
            assert_eq!(error.key, key);
            assert!(
                matches!(&error.problem, Problem::Path(_, found) if *found == fault),
                "{error}"
            );
            let text = error.to_string();
            assert!(text.ends_with("for example \"guest/vmlinuz\""), "{text}");
            assert!(!text.contains('\n'));
        }
    }
}

#[test]
fn cmdline_is_one_line_of_bounded_length() {
    let line = "cmdline = \"console=ttyS0 quiet\"";
    let fits = format!("cmdline = \"{}\"", "x".repeat(MAX_CMDLINE_BYTES));
    assert!(parse("k", &GOOD.replace(line, &fits)).is_ok());
    let long = format!("cmdline = \"{}\"", "x".repeat(MAX_CMDLINE_BYTES + 1));
    assert_eq!(
        with(line, &long),
        "kerf.toml:11: vm.cmdline: 2048 bytes are too long; write at most 2047"
    );
    assert_eq!(
        with(line, "cmdline = \"a\\nb\""),
        "kerf.toml:11: vm.cmdline: holds the control character '\\n'; write one line of text"
    );
}

#[test]
fn windows_line_ends_and_inline_tables_are_toml_too() {
    assert!(parse("k", &GOOD.replace('\n', "\r\n")).is_ok());
    assert!(parse("k", &format!("\u{feff}{GOOD}")).is_ok());
    let inline = "version = 1\nvm = [{ name = \"a\", memory = \"2M\", kernel = \"k\" }]\n";
    assert!(parse("k", inline).is_ok());
    assert_eq!(
        message(&inline.replace("\"2M\"", "\"2X\"")),
        "kerf.toml:2: vm.memory: \"2X\" is not a size; write for example \"256M\""
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        let _ = parse("kerf.toml", &text);
    }

    #[test]
    fn any_damage_is_read_or_refused(at in 0..GOOD.len(), byte in 0u8..128) {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] = byte;
        let text = String::from_utf8(bytes).unwrap();
        if let Err(error) = parse("kerf.toml", &text) {
            prop_assert!(error.line <= 16 && !error.to_string().contains('\n'));
        }
    }
}

#[test]
fn devices_are_read_by_place_or_by_kind() {
    let function = "[[vm.device]]\nfunction = \"0000:01:00.0\"\n";
    let kind = "[[vm.device]]\nvendor = 0x8086\ndevice = 0x10c9\n[[vm.device]]\nclass = 0x010802\n";
    let config = parse("kerf.toml", &[GOOD, function, kind].concat()).unwrap();
    let address = hw::Function { segment: 0, rid: hw::RequesterId::new(1, 0, 0) };
    let like = |vendor, device, class| Device::Like { vendor, device, class };
    assert_eq!(
        config.vms[0].devices,
        [
            Device::Function(address),
            like(Some(0x8086), Some(0x10c9), None),
            like(None, None, Some(0x01_0802)),
        ]
    );
}

#[test]
fn virtual_functions_are_named_by_their_physical_one() {
    let one = |more: &str| {
        let lines = "[[vm.device]]\nvirtual-function-of = \"0000:01:00.0\"\n";
        parse("kerf.toml", &[GOOD, lines, more, "\n"].concat()).unwrap().vms[0].devices[0]
    };
    let of = hw::Function { segment: 0, rid: hw::RequesterId::new(1, 0, 0) };
    for (more, namespace) in [
        ("", None),
        ("namespace = 3", Some(Namespace::Id(3))),
        ("namespace-bytes = \"3M\"", Some(Namespace::Bytes(3 << 20))),
    ] {
        assert_eq!(one(more), Device::Virtual { of, namespace });
    }
}

#[test]
fn virtual_devices_and_what_they_are_carved_from_are_read() {
    let text = [
        GOOD,
        "[[vm.vdev]]\nkind = \"dsa\"\nfunctions = [\"6a:01.0\"]\nqueues = 2\nversion = \"2.0\"\nspread = true\n",
        "[[hosting]]\nfunction = \"0000:6a:01.0\"\nqueues = [16, 32]\n",
    ];
    let config = parse("kerf.toml", &text.concat()).unwrap();
    let function = Function { segment: 0, rid: hw::RequesterId::new(0x6a, 1, 0) };
    assert_eq!(config.hosting, [Hosting { function, queues: vec![16, 32] }]);
    let vdev = Vdev {
        kind: VdevKind::Dsa,
        functions: vec![function],
        queues: 2,
        entries: 1,
        interrupts: 1,
        version: VdevVersion::V2,
        spread: true,
    };
    assert_eq!(config.vms[0].vdevs, [vdev]);
    let wrong = [GOOD, "[[vm.vdev]]\nkind = \"dsa\"\nfunctions = [\"6a:01\"]\n"].concat();
    assert!(message(&wrong).contains("vm.vdev.functions"));
}

#[test]
fn a_device_that_is_named_wrongly_is_refused() {
    for (lines, wanted) in [
        ("", "named by `function`"),
        ("device = 1", "named by `function`"),
        ("function = \"01:00.0\"\nclass = 1", "named by `function`"),
        ("function = \"01:00.0\"\nnamespace = 1", "named by `function`"),
        ("virtual-function-of = \"01:00.0\"\nvendor = 1", "named by `function`"),
        (
            "virtual-function-of = \"01:00.0\"\nnamespace = 1\nnamespace-bytes = \"1M\"",
            "named by `function`",
        ),
        (
            "virtual-function-of = \"x\"",
            "vm.device.virtual-function-of: \"x\" is not a PCI function",
        ),
        (
            "virtual-function-of = \"01:00.0\"\nnamespace-bytes = \"1X\"",
            "vm.device.namespace-bytes",
        ),
        ("function = \"1:0.0\"", "\"1:0.0\" is not a PCI function"),
        ("function = \"0000:01:20.0\"", "is not a PCI function"),
        ("function = \"0:0000:01:00.0\"", "is not a PCI function"),
        ("class = 0x1000000", "0x1000000 is not a class code"),
        ("functoin = \"01:00.0\"", "did you mean `function`?"),
    ] {
        let message = message(&[GOOD, "[[vm.device]]\n", lines, "\n"].concat());
        assert!(message.contains(wanted) && message.contains("vm.device"), "{message}");
    }
}

#[test]
fn a_function_has_one_owner() {
    let device = "[[vm.device]]\nfunction = \"01:00.0\"\n";
    let twice = message(&[GOOD, device, device].concat());
    assert!(twice.contains("0000:01:00.0 is VM \"linux\"'s already"), "{twice}");
    let other = "[[vm]]\nname = \"b\"\nmemory = \"2M\"\nkernel = \"k\"\n";
    let shared = message(&[GOOD, device, other, device].concat());
    assert!(shared.contains("0000:01:00.0 is VM \"linux\"'s already"), "{shared}");
}

#[test]
fn a_survey_needs_no_vm() {
    let text = "version = 1\n[hypervisor]\nmode = \"survey\"\n[hypervisor.iommu]\nmode = \"scalable-first\"\n";
    let config = parse("kerf.toml", text).unwrap();
    assert_eq!(config.hypervisor.mode, RunMode::Survey);
    assert_eq!(config.hypervisor.iommu.mode, IommuMode::ScalableFirst);
    let stops = with("memory =", "on-fault = \"stop\"\nmemory =");
    assert!(stops.contains("vm.on-fault") && stops.contains("`stop-device`"), "{stops}");
    assert!(message(&text.replace("survey", "run")).contains("there is no VM"));
}
