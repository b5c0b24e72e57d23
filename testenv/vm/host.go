package vm

import (
	"context"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// packages are the Debian packages that bring the commands a run may need.
var packages = map[string]string{
	"bash":               "bash",
	"bpftool":            "bpftool",
	"busybox":            "busybox-static",
	"curl":               "curl",
	"dpkg-deb":           "dpkg",
	"ethtool":            "ethtool",
	"ip":                 "iproute2",
	"iptables":           "iptables",
	"ipvsadm":            "ipvsadm",
	"nft":                "nftables",
	"qemu-system-x86_64": "qemu-system-x86",
	"tc":                 "iproute2",
	"tcpdump":            "tcpdump",
}

// provide makes sure that the host has the commands, and installs what is
// missing with apt, saying so on log.
func provide(ctx context.Context, log io.Writer, commands []string) error {
	var missing []string
	for _, c := range commands {
		if found(c) {
			continue
		}
		p, ok := packages[c]
		if !ok {
			return fmt.Errorf("command %s is not on this host (install it; its package is not known here)", c)
		}
		if !slices.Contains(missing, p) {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	fmt.Fprintf(log, "vm: installing %s with apt\n", strings.Join(missing, " "))
	install := append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)
	if err := apt(ctx, install...); err == nil {
		return nil
	}
	if err := apt(ctx, "update", "-qq"); err != nil {
		return err
	}
	return apt(ctx, install...)
}

// found reports whether a command is there. The guest has no libraries when
// busybox starts, so a dynamic one does not count.
func found(command string) bool {
	p, err := exec.LookPath(command)
	if err != nil {
		return false
	}
	return command != "busybox" || !dynamic(p)
}

// apt runs apt-get and waits for others who hold its lock.
func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-o", "DPkg::Lock::Timeout=300"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s (packages are installed as root only)", strings.Join(args, " "), err, tail(string(out), 400))
	}
	return nil
}

// dynamic reports whether a file is an executable that needs a loader.
func dynamic(file string) bool {
	f, err := elf.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// libraries lists the shared objects that an executable needs, with its
// loader.
func libraries(ctx context.Context, file string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ldd", file).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", file, err)
	}
	var libs []string
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") {
			libs = append(libs, word)
		}
	}
	return libs, nil
}
