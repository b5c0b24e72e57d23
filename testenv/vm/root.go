package vm

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed init.sh
var initScript []byte

// writeInitramfs makes the guest's root file system. It is not compressed:
// the emulated CPU would take longer to unpack it than to copy it.
func writeInitramfs(ctx context.Context, file string, k kernel, o Options) error {
	root := tree{}
	if err := addBase(ctx, root); err != nil {
		return err
	}
	if err := addModules(root, k, o.Modules); err != nil {
		return err
	}
	for _, name := range o.Tools {
		if err := addTool(ctx, root, name); err != nil {
			return err
		}
	}
	for guest, host := range o.Files {
		if !path.IsAbs(guest) {
			guest = path.Join("/t", guest)
		}
		if err := root.add(guest, host); err != nil {
			return err
		}
	}
	if err := addLibraries(ctx, root); err != nil {
		return err
	}
	root.put("/etc/lvx-vm/run", 0o755, []byte(o.script()))

	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := root.write(f); err != nil {
		return err
	}
	return f.Close()
}

// addBase lays out a merged-usr system with nothing but busybox and bash.
func addBase(ctx context.Context, root tree) error {
	for _, d := range []string{"/proc", "/sys", "/dev", "/tmp", "/run", "/out", "/root", "/t", "/var/lib", "/usr/lib64", "/usr/sbin"} {
		root.dir(d)
	}
	for _, l := range []string{"bin", "sbin", "lib", "lib64"} {
		root.link("/"+l, "usr/"+l)
	}
	root.put("/init", 0o755, initScript)
	root.put("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	root.put("/etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	root.put("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n"))
	root.link("/var/run", "/run")

	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := root.add("/usr/bin/busybox", busybox); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox --list: %w", err)
	}
	for _, applet := range strings.Fields(string(out)) {
		if applet != "busybox" {
			root.link("/usr/bin/"+applet, "busybox")
		}
	}
	root.link("/usr/sbin/modprobe", "../bin/busybox") // the path that the kernel asks at
	// busybox's own shell prefers its applets to the tools of the same name.
	if err := addTool(ctx, root, "bash"); err != nil {
		return err
	}
	root.link("/usr/bin/sh", "bash")
	return nil
}

// addModules puts all modules into the guest, and the list of those to load.
func addModules(root tree, k kernel, load []string) error {
	set, err := readModules(k.modules())
	if err != nil {
		return err
	}
	for _, name := range load {
		if _, ok := set[moduleName(name)]; !ok {
			return fmt.Errorf("module %s is not in the cached kernel %s", name, k.release)
		}
	}
	dir := "/usr/lib/modules/" + k.release
	for _, m := range set {
		if err := root.add(path.Join(dir, m.file), filepath.Join(k.modules(), m.file)); err != nil {
			return err
		}
	}
	root.put(dir+"/modules.dep", 0o644, set.dep())
	root.put(dir+"/modules.alias", 0o644, set.alias())
	root.put(dir+"/modules.symbols", 0o644, nil)
	var lines strings.Builder
	for _, name := range set.closure(load...) {
		lines.WriteString(name + "\n")
	}
	root.put("/etc/lvx-vm/modules", 0o644, []byte(lines.String()))
	return nil
}

// addTool copies a command to where the host has it. A busybox applet of the
// same name gives way.
func addTool(ctx context.Context, root tree, name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	delete(root, "/usr/bin/"+name)
	if err := root.add(merged(file), file); err != nil {
		return err
	}
	if name != "iptables" {
		return nil
	}
	// iptables loads its matches from a directory.
	const plugins = "/usr/lib/x86_64-linux-gnu/xtables"
	return root.add(plugins, plugins)
}

// merged names a path as it is on a merged-usr system, whose /bin and /lib
// are links.
func merged(file string) string {
	for _, d := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(file, d) {
			return "/usr" + file
		}
	}
	return file
}

// addLibraries adds the shared objects of every dynamic executable.
func addLibraries(ctx context.Context, root tree) error {
	var files []string
	for name, e := range root {
		if e.source != "" && e.mode&0o111 != 0 && !strings.HasSuffix(name, ".so") && dynamic(e.source) {
			files = append(files, e.source)
		}
	}
	slices.Sort(files)
	for _, file := range files {
		libs, err := libraries(ctx, file)
		if err != nil {
			return err
		}
		for _, lib := range libs {
			if err := root.add(merged(lib), lib); err != nil {
				return err
			}
		}
	}
	return nil
}
