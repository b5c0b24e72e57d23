package vm

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// archive is a kernel package's file system with the given files.
func archive(t *testing.T, files map[string]string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

const ipvsModule = "lib/modules/6.1.0-1/kernel/net/netfilter/ipvs/ip_vs.ko"

// store unpacks a small kernel into a cache, as download does.
func store(t *testing.T, base string) string {
	t.Helper()
	dir := filepath.Join(base, "linux-image-6.1.0-1")
	sums, err := extract(archive(t, map[string]string{
		"./boot/vmlinuz-6.1.0-1": "image", "./" + ipvsModule: "module", "./usr/share/doc/x": "no",
		"./lib/modules/6.1.0-1/kernel/sound/snd.ko": "no", "../boot/vmlinuz-evil": "no",
	}), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sums"), []byte(sums), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCache(t *testing.T) {
	base := t.TempDir()
	if _, err := cached(base); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("empty cache: error %v", err)
	}
	dir := store(t, base)
	got := list(t, dir)
	delete(got, "sums")
	for name, entry := range got {
		if strings.HasPrefix(entry, "d") {
			delete(got, name)
		}
	}
	want := map[string]string{"boot/vmlinuz-6.1.0-1": "-rw-r--r-- image", ipvsModule: "-rw-r--r-- module"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unpacked (-want +got):\n%s", diff)
	}
	k, err := cached(base)
	if err != nil || k.release != "6.1.0-1" || !exists(k.image()) || !exists(k.modules()) {
		t.Errorf("cached: %+v, %v", k, err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestCacheVerified: a file that is not what was stored costs the whole copy.
func TestCacheVerified(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"is not what was stored": func(dir string) error { return os.WriteFile(filepath.Join(dir, ipvsModule), []byte("Module"), 0o644) },
		"file of the cached":     func(dir string) error { return os.Remove(filepath.Join(dir, ipvsModule)) },
		"malformed line":         func(dir string) error { return os.WriteFile(filepath.Join(dir, "sums"), []byte("x\n"), 0o644) },
		"empty":                  func(dir string) error { return os.WriteFile(filepath.Join(dir, "sums"), nil, 0o644) },
	} {
		base := t.TempDir()
		dir := store(t, base)
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := cached(base); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
		if exists(dir) {
			t.Errorf("%s: the damaged copy is still there", name)
		}
	}
}

func TestLock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(file)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error)
	go func() {
		again, err := lock(file)
		if err == nil {
			again()
		}
		second <- err
	}()
	select {
	case <-second:
		t.Error("two hold the lock")
	default:
	}
	unlock()
	if err := <-second; err != nil {
		t.Error(err)
	}
}

func TestModules(t *testing.T) {
	m := parseModinfo([]byte("license=GPL\x00depends=nf_conntrack,libcrc32c\x00alias=net-pf-16-proto-16-family-IPVS\x00\x00vermagic=x"))
	if diff := cmp.Diff(module{depends: []string{"nf_conntrack", "libcrc32c"}, aliases: []string{"net-pf-16-proto-16-family-IPVS"}}, m, cmp.AllowUnexported(module{})); diff != "" {
		t.Errorf("modinfo (-want +got):\n%s", diff)
	}
	if m := parseModinfo([]byte("depends=\x00")); m.depends != nil {
		t.Errorf("no dependencies: %q", m.depends)
	}
	set := moduleSet{
		"ip_vs":        {file: "net/ip_vs.ko", depends: []string{"nf_conntrack", "libcrc32c"}, aliases: []string{"family-IPVS"}},
		"ip_vs_rr":     {file: "net/ip_vs_rr.ko", depends: []string{"ip_vs"}},
		"nf_conntrack": {file: "net/nf_conntrack.ko", depends: []string{"libcrc32c", "builtin"}},
		"libcrc32c":    {file: "lib/libcrc32c.ko"},
	}
	if diff := cmp.Diff([]string{"libcrc32c", "nf_conntrack", "ip_vs", "ip_vs_rr"}, set.closure("ip-vs-rr", "ip_vs", "builtin")); diff != "" {
		t.Errorf("closure (-want +got):\n%s", diff)
	}
	wantDep := "net/ip_vs.ko: net/nf_conntrack.ko lib/libcrc32c.ko\nnet/ip_vs_rr.ko: net/ip_vs.ko net/nf_conntrack.ko lib/libcrc32c.ko\n" +
		"lib/libcrc32c.ko:\nnet/nf_conntrack.ko: lib/libcrc32c.ko\n"
	if diff := cmp.Diff(wantDep, string(set.dep())); diff != "" {
		t.Errorf("modules.dep (-want +got):\n%s", diff)
	}
	if got := string(set.alias()); got != "alias family-IPVS ip_vs\n" {
		t.Errorf("modules.alias %q", got)
	}
}

func TestDynamic(t *testing.T) {
	if dynamic("/proc/self/cmdline") {
		t.Error("a file that is no program is dynamic")
	}
	if err := provide(t.Context(), os.Stderr, []string{"busybox", "bash"}); err != nil {
		t.Fatal(err)
	}
	if dynamic("/bin/busybox") || !dynamic("/bin/bash") {
		t.Error("busybox is dynamic, or bash is not")
	}
	libs, err := libraries(t.Context(), "/bin/bash")
	if err != nil || len(libs) < 2 {
		t.Errorf("libraries of bash: %q, %v", libs, err)
	}
}
