// Package lane runs the tests that need another kernel than the host's, those
// built with the tag ipvsvm, and tests that shall hold on that kernel too,
// each suite in a guest of its own (package vm).
// Its one test is the whole lane:
//
//	go test ./testenv/vm/lane
//	go test ./testenv/vm/lane -run 'TestLane/backend' -v
//
// It holds no tests of behaviour itself; it knows where they are and what
// they need. A suite is a list entry in [Suites].
package lane

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/testenv/vm"
)

// Tag is the build tag of tests that run in a guest only.
const Tag = "ipvsvm"

// A Suite is the tagged tests of one package and the guest they need.
type Suite struct {
	Name    string
	Package string            // import path or ./path from the root of the module
	Run     string            // -test.run; "" is every test
	Host    bool              // the tests run on hosts as well: they need no tag
	Env     []string          // further environment, NAME=value
	Pass    []string          // names of variables that are passed on from here, if they are set
	Builds  map[string]string // commands to build for the guest, guest path to package
	Files   map[string]string // further files, guest path to path from the root of the module
	Tools   []string          // see vm.Options
	Modules []string          // loaded before the tests; ip_vs if nil
	Cables  int               // see vm.Options
	Memory  int               // MiB; 0 is vm.DefaultMemory
	Icount  bool              // the guest's clock counts instructions: sleeping is free
	Timeout time.Duration     // of the guest; 0 is vm.DefaultTimeout
}

// Suites is the lane, the longest first.
var Suites = []Suite{
	{
		Name: "judge", Package: "./cmd/lvx", Run: "^TestKernelJudge$", Icount: true, Memory: 2000, Timeout: 3 * time.Hour,
		Env: []string{"GOGC=400"}, Pass: []string{"LVX_JUDGE_STEPS", "LVX_JUDGE_SEED", "LVX_JUDGE_LOOK"},
		Modules: []string{"nf_tables", "veth"},
	},
	{
		Name: "backend", Package: "./pkg/backend/ipvs", Run: "^TestKernel", Icount: true,
		Tools:   []string{"ipvsadm", "ip", "nft"},
		Modules: []string{"nf_tables"}, // ip_vs is for the backend to load
	},
	{
		Name: "listing", Package: "./cmd/lvx", Run: "^TestKernelListing$", Icount: true,
		Tools: []string{"ipvsadm"},
	},
	{
		Name: "ipvsadm", Package: "./pkg/ipvsadm", Run: "^TestKernelTranscript$", Icount: true, // 450 processes
		Tools: []string{"ipvsadm"},
	},
	{
		Name: "sync", Package: "./pkg/connsync", Run: "^TestKernel", Memory: 1000,
		Tools:   []string{"ipvsadm"},
		Modules: []string{"ip_vs", "veth", "bridge"},
	},
	{
		Name: "migration", Package: "./testenv/vm/handover", Run: "^TestMigration", Icount: true, Memory: 2000,
		Builds:  map[string]string{"lvx": "./cmd/lvx"},
		Pass:    []string{"LVX_LOAD"},
		Files:   map[string]string{"migrate.md": "docs/migrate.md"},
		Tools:   []string{"ipvsadm", "ip", "iptables", "keepalived", "openssl"},
		Modules: []string{"ip_vs", "nf_tables", "nft_compat", "xt_tcpudp", "veth", "bridge"},
	},
	{
		Name: "handover", Package: "./testenv/vm/handover", Run: "^Test(Kernel|LVX)", Icount: true, Memory: 2000,
		Builds:  map[string]string{"lvx": "./cmd/lvx"},
		Pass:    []string{"LVX_HANDOVER_FLOWS"},
		Tools:   []string{"ipvsadm", "ip", "nft"},
		Modules: []string{"ip_vs", "nf_tables", "veth", "bridge"},
	},
	{
		Name: "instructions", Package: "./bench", Run: "^Test(KernelInstructions|Clock|Straight)$", Icount: true, Memory: 2000,
		Env:     []string{"GOGC=off", "GODEBUG=asyncpreemptoff=1"}, // no signal, nobody else's work
		Modules: []string{"ip_vs", "ip_vs_rr", "veth"},
	},
	{
		Name: "keepalived", Package: "./pkg/keepalived", Run: "^TestKernelKeepalived$",
		Tools: []string{"ipvsadm", "keepalived"},
		Files: map[string]string{"testdata": "pkg/keepalived/testdata"},
	},
	{
		Name: "fallback", Package: "./testenv/vm/fallback", Memory: 2000,
		Builds:  map[string]string{"lvx": "./cmd/lvx"},
		Files:   map[string]string{"examples": "docs/examples"},
		Tools:   []string{"bash", "curl", "ip", "ipvsadm", "iptables"},
		Modules: []string{"nf_tables", "veth", "bridge"}, // ip_vs is for the daemon to load
	},
	{
		Name: "wiring", Package: "./testenv/vm/wiring", Icount: true, Memory: 2000, Cables: 1,
		Builds:  map[string]string{"lvx": "./cmd/lvx"},
		Tools:   []string{"ip", "ethtool"},
		Modules: []string{"veth", "bridge", "8021q", "bonding", "virtio_pci", "virtio_net"},
	},
	{
		Name: "xdp", Package: "./pkg/backend/xdp", Host: true, Memory: 5000,
		Run:     "^(TestBehaviour|TestForwardedFrame|TestAnswers|TestFragmentsStayTogether|TestServiceWithoutListenersDrains)$",
		Modules: []string{"veth"},
	},
	{
		Name: "verifier", Package: "./loader", Run: "^TestVerifier", Host: true, Memory: 2000, Modules: []string{"veth"},
	},
}

// Test builds the suite's tests and runs them in a guest. What they print
// goes to out as it comes. A failed test is an error.
func (s Suite) Test(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "lvx-lane-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	binary := filepath.Join(dir, "suite.test")
	if err := s.build(ctx, root, binary); err != nil {
		return err
	}
	o := s.options(root, binary, out)
	for guest, pkg := range s.Builds {
		o.Files[guest] = filepath.Join(dir, filepath.Base(guest))
		if err := s.compile(ctx, root, "build", "-o", o.Files[guest], pkg); err != nil {
			return err
		}
	}
	res, err := vm.Run(ctx, o)
	if err != nil {
		return fmt.Errorf("suite %s: %w", s.Name, err)
	}
	if res.Code != 0 {
		return fmt.Errorf("suite %s: exit code %d after %.1f s", s.Name, res.Code, res.Took.Seconds())
	}
	fmt.Fprintf(out, "suite %s: passed in %.1f s\n", s.Name, res.Took.Seconds())
	return nil
}

// build compiles a static test binary: the guest has no libc of its own.
func (s Suite) build(ctx context.Context, root, binary string) error {
	if err := s.compile(ctx, root, "test", "-c", "-tags", Tag, "-o", binary, s.Package); err != nil {
		return err
	}
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("suite %s: package %s has no tests", s.Name, s.Package)
	}
	return nil
}

// compile runs the go command for the guest.
func (s Suite) compile(ctx context.Context, root string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("suite %s: build: %w\n%s", s.Name, err, text)
	}
	return nil
}

func (s Suite) options(root, binary string, out io.Writer) vm.Options {
	o := vm.Options{
		Files: map[string]string{"suite.test": binary},
		Tools: s.Tools, Modules: s.Modules, Cables: s.Cables, Memory: s.Memory, Icount: s.Icount, Timeout: s.Timeout, Stdout: out, Log: out,
	}
	if o.Modules == nil {
		o.Modules = []string{"ip_vs"}
	}
	for guest, file := range s.Files {
		o.Files[guest] = filepath.Join(root, file)
	}
	argv := append([]string{"env"}, s.Env...)
	for _, name := range s.Pass {
		if value, ok := os.LookupEnv(name); ok {
			argv = append(argv, name+"="+value)
		}
	}
	// Days may pass on the guest's own clock; ours ends it.
	argv = append(argv, "./suite.test", "-test.v", "-test.timeout=0")
	if s.Run != "" {
		argv = append(argv, "-test.run="+s.Run)
	}
	// Tests read their testdata relative to their package.
	if testdata := filepath.Join(root, s.Package, "testdata"); exists(testdata) {
		o.Files["testdata"] = testdata
	}
	o.Argv = argv
	return o
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("root of the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
