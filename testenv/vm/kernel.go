package vm

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// metaPackage depends on the newest cloud kernel of the Debian release.
const metaPackage = "linux-image-cloud-amd64"

// A kernel is an unpacked kernel package in the cache.
type kernel struct {
	dir     string // holds boot/, lib/modules/ and sums
	release string // as uname -r says
}

func (k kernel) image() string   { return filepath.Join(k.dir, "boot", "vmlinuz-"+k.release) }
func (k kernel) modules() string { return filepath.Join(k.dir, "lib", "modules", k.release) }

// findKernel returns the kernel from the cache, or downloads it. Callers in
// several processes wait for each other.
func findKernel(ctx context.Context, log io.Writer) (kernel, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return kernel{}, fmt.Errorf("cache for kernels: %w", err)
	}
	base = filepath.Join(base, "lvx-vm", selection())
	if err := os.MkdirAll(base, 0o755); err != nil {
		return kernel{}, err
	}
	unlock, err := lock(filepath.Join(base, "lock"))
	if err != nil {
		return kernel{}, err
	}
	defer unlock()
	if k, err := cached(base); err == nil {
		return k, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(log, "vm: cached kernel dropped: %v\n", err)
	}
	return download(ctx, base, log)
}

// lock holds an advisory lock on file until the returned function is called.
func lock(file string) (func(), error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	return func() { f.Close() }, nil
}

// cached finds a kernel whose files still have the sums they were stored
// with.
func cached(base string) (kernel, error) {
	found, err := filepath.Glob(filepath.Join(base, "linux-image-*", "sums"))
	if err != nil {
		return kernel{}, err
	}
	if len(found) == 0 {
		return kernel{}, os.ErrNotExist
	}
	dir := filepath.Dir(found[len(found)-1])
	if err := verify(dir); err != nil {
		return kernel{}, errors.Join(err, os.RemoveAll(dir))
	}
	release := strings.TrimPrefix(filepath.Base(dir), "linux-image-")
	return kernel{dir: dir, release: release}, nil
}

// download fetches the kernel package. apt checks it against the archive's
// signature; the sums written here guard the unpacked copy from then on.
func download(ctx context.Context, base string, log io.Writer) (kernel, error) {
	name, err := packageName(ctx)
	if err != nil {
		return kernel{}, err
	}
	fmt.Fprintf(log, "vm: downloading %s\n", name)
	tmp, err := os.MkdirTemp(base, "new-")
	if err != nil {
		return kernel{}, err
	}
	defer os.RemoveAll(tmp)
	cmd := exec.CommandContext(ctx, "apt-get", "download", "-qq", name)
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return kernel{}, fmt.Errorf("apt-get download %s: %w: %s", name, err, tail(string(out), 400))
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return kernel{}, fmt.Errorf("apt-get download %s: %d packages arrived", name, len(debs))
	}
	files := filepath.Join(tmp, "files")
	if err := unpack(ctx, debs[0], files); err != nil {
		return kernel{}, fmt.Errorf("unpack %s: %w", debs[0], err)
	}
	// The rename is the commit point: a directory with this name is whole.
	dir := filepath.Join(base, name)
	if err := os.Rename(files, dir); err != nil {
		return kernel{}, err
	}
	return kernel{dir: dir, release: strings.TrimPrefix(name, "linux-image-")}, nil
}

// packageName asks apt which kernel the meta package stands for.
func packageName(ctx context.Context) (string, error) {
	ask := func() string {
		out, _ := exec.CommandContext(ctx, "apt-cache", "depends", metaPackage).Output()
		for line := range strings.Lines(string(out)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
				return name
			}
		}
		return ""
	}
	if name := ask(); name != "" {
		return name, nil
	}
	if err := apt(ctx, "update", "-qq"); err != nil {
		return "", err
	}
	if name := ask(); name != "" {
		return name, nil
	}
	return "", fmt.Errorf("package %s not found (the guest's kernel comes from Debian's archive for amd64)", metaPackage)
}

// kept are the modules that guests use: those of networking.
var kept = []string{
	"net/netfilter/", "net/ipv4/", "net/ipv6/", "net/bridge/", "net/sched/", "net/8021q/", "net/802/", "net/llc/", "net/packet/", "net/tls/",
	"net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net", "drivers/virtio/virtio", "drivers/net/bonding/",
	"drivers/net/veth", "drivers/net/dummy", "drivers/net/macvlan", "drivers/net/ifb", "drivers/net/tun", "drivers/net/vrf",
	"lib/", "arch/x86/crypto/crc32c", "crypto/crc32c",
}

// selection names the kept modules: a cache of others is no cache of these.
func selection() string {
	sum := sha256.Sum256([]byte(strings.Join(kept, " ")))
	return hex.EncodeToString(sum[:4])
}

// wanted picks the files of a kernel package that guests use: the image and
// the kept modules.
func wanted(name string) bool {
	if strings.HasPrefix(name, "boot/vmlinuz-") {
		return true
	}
	_, module, ok := strings.Cut(name, "/kernel/")
	if !ok || !strings.HasSuffix(module, ".ko") {
		return false
	}
	for _, prefix := range kept {
		if strings.HasPrefix(module, prefix) {
			return true
		}
	}
	return false
}

// unpack writes the wanted files of a Debian package below dir, and the file
// sums with their SHA-256 in sha256sum's format.
func unpack(ctx context.Context, deb, dir string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	sums, err := extract(out, dir)
	_, _ = io.Copy(io.Discard, out)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "sums"), []byte(sums), 0o644)
}

func extract(r io.Reader, dir string) (string, error) {
	var sums strings.Builder
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return sums.String(), nil
		}
		if err != nil {
			return "", err
		}
		name := filepath.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(name) || !wanted(name) {
			continue
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return "", err
		}
		target := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(target, data, 0o644); err != nil {
			return "", err
		}
		sum := sha256.Sum256(data)
		fmt.Fprintf(&sums, "%s  %s\n", hex.EncodeToString(sum[:]), name)
	}
}

// verify compares the files below dir with sums.
func verify(dir string) error {
	f, err := os.Open(filepath.Join(dir, "sums"))
	if err != nil {
		return err
	}
	defer f.Close()
	n := 0
	for sc := bufio.NewScanner(f); sc.Scan(); n++ {
		want, name, ok := strings.Cut(sc.Text(), "  ")
		if !ok || !filepath.IsLocal(name) {
			return fmt.Errorf("sums of %s: malformed line %d", dir, n+1)
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("file of the cached kernel: %v", err)
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want {
			return fmt.Errorf("%s is not what was stored", name)
		}
	}
	if n == 0 {
		return fmt.Errorf("sums of %s: empty", dir)
	}
	return nil
}
