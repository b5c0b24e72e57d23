package bpf

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// generated is the object that a directive of gen.go makes, without the flags
// named.
func generated(t *testing.T, stem string, without ...string) []byte {
	t.Helper()
	text, err := os.ReadFile("gen.go")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for line := range strings.Lines(string(text)) {
		command, ok := strings.CutPrefix(strings.TrimSpace(line), "//go:generate ")
		if !ok || !strings.Contains(command, "-output-stem "+stem+" ") {
			continue
		}
		for _, flag := range without {
			if !strings.Contains(command, flag) {
				t.Fatalf("the object %s is not compiled with %s", stem, flag)
			}
			command = strings.Replace(command, flag, "", 1)
		}
		args := strings.Fields(strings.Replace(command, "bpf2go ", "bpf2go -output-dir "+dir+" ", 1))
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "GOPACKAGE=bpf", "GOFILE=gen.go")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		object, err := os.ReadFile(filepath.Join(dir, stem+"_bpfel.o"))
		if err != nil {
			t.Fatal(err)
		}
		return object
	}
	t.Fatalf("gen.go makes no object %s", stem)
	return nil
}

// What explains and what traces is compiled in by an option alone: without
// it each of them is the object that serves, byte for byte.
func TestRecordingIsAnOption(t *testing.T) {
	for _, serving := range []struct {
		family string
		object []byte
		load   func() (*ebpf.CollectionSpec, error)
	}{{"", _LbBytes, LoadSpec}, {"6", _Lb6Bytes, LoadSpec6}} {
		for stem, option := range map[string]string{"explain": "-D LVX_EXPLAIN", "trace": "-D LVX_TRACE"} {
			if stem += serving.family; !bytes.Equal(generated(t, stem, option), serving.object) {
				t.Errorf("%s without %s is not the object that serves", stem, option)
			}
		}
		spec, err := serving.load()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"recording", "recordings"} {
			if spec.Maps[name] != nil {
				t.Errorf("the object that serves has the map %s", name)
			}
		}
	}
}
