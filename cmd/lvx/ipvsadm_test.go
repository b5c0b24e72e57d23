package main

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/lb/lbtest"
	"github.com/lvx-lb/lvx/testenv/transcript"
)

// startDirector runs a director of its own behind a socket.
func startDirector(t *testing.T, cfg *config.Config) *lbtest.Fake {
	t.Helper()
	backend := lbtest.NewFake()
	d := director.New(director.Options{
		Config: cfg, Load: func() (*config.Config, error) { return cfg, nil }, Backend: backend, SyncDaemons: &ranDaemons{},
		Health: health.NewMonitor(health.Options{New: func(t health.Target) (health.Checker, error) { return health.New(t) }}),
	})
	ctx, cancel := context.WithCancel(context.Background())
	res := make(chan error, 1)
	go func() { res <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-res; err != nil {
			t.Error(err)
		}
	})
	<-d.Applied()
	serve(t, d)
	return backend
}

// ranDaemons runs none, and knows what should run.
type ranDaemons struct{ daemons []ipvsadm.Daemon }

func (r *ranDaemons) SetDaemons(daemons []ipvsadm.Daemon) { r.daemons = daemons }
func (*ranDaemons) DaemonsOfFile() []ipvsadm.Daemon       { return nil }
func (*ranDaemons) Status() []connsync.WireStatus         { return nil }

// testNames knows what the host of the transcript knew.
type testNames struct{ ports ipvsadm.ServicePorts }

func (testNames) HostName(a netip.Addr) string {
	if a == netip.MustParseAddr("127.0.0.1") {
		return "localhost"
	}
	return ""
}

func (n testNames) PortName(port uint16, p lb.Protocol) string { return n.ports.Name(port, p) }

func (testNames) Addr(string) (netip.Addr, bool) { return netip.Addr{}, false }

func (n testNames) Port(name string, p lb.Protocol) (uint16, bool) { return n.ports.Port(name, p) }

// asIpvsadm runs a command line as the binary called ipvsadm does.
func asIpvsadm(t *testing.T, names testNames, command, stdin string) transcript.Exchange {
	t.Helper()
	var stdout, stderr bytes.Buffer
	words := strings.Fields(command)
	call := newCall(words[0], words[1:], strings.NewReader(stdin), &stdout, &stderr)
	call.Host, call.Names = names, names
	e := transcript.Exchange{Command: command, Stdin: stdin, Status: call.Run()}
	e.Stdout, e.Stderr = stdout.String(), stderr.String()
	return e
}

// differences are the command lines that lvx answers otherwise than ipvsadm,
// all of them behind "Where lvx differs" in the transcript.
var differences = map[string]string{
	"ipvsadm -Ln -f 12 -6": "a mark says nothing of its family before it has a real or a listener",
	"ipvsadm -A -t 10.0.0.100:81 -s wrr -b flag-1,flag-2,flag-3": "flags that mean nothing are not kept",
	"ipvsadm -A -t 10.0.0.100:82 -s rr -p --pe sip":              "no persistence engines",
	"ipvsadm -A -t 10.0.0.100:83 -s rr -p -M 255.0.255.0":        "masks are those of networks",
	"ipvsadm -a -t 10.0.0.100:84 -r 10.0.0.11 -w 65536":          "weights end at 65535",
	"ipvsadm -Ln":            "lists what was refused above; and ports of reals that cannot be had: 0 of a masqueraded one, one's own of direct routing",
	"ipvsadm -Ln --tun-info": "the same",
	"ipvsadm -S -n":          "the same",
}

// TestTranscript: a director answers 440 command lines as ipvsadm does on the
// kernel's IPVS, through its socket, with its state in a runtime layer. Of a disk
// that takes longer than a second it would say so on stderr: it has none.
func TestTranscript(t *testing.T) {
	startDirector(t, &config.Config{Interfaces: []string{"lo"}, ExpireNodestConn: true})
	f, err := os.Open("../../pkg/ipvsadm/testdata/services")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names := testNames{ipvsadm.ParseServices(f)}
	raw, err := os.ReadFile("../../pkg/ipvsadm/testdata/transcript.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := transcript.Parse(string(raw))
	same, different := 0, 0
	section, _, _ := strings.Cut(string(raw), "# Where lvx differs.")
	first := len(transcript.Parse(section))
	for i, want := range all {
		got := asIpvsadm(t, names, want.Command, want.Stdin)
		if got == want {
			same++
			continue
		}
		different++
		if i >= first && differences[want.Command] != "" {
			continue
		}
		t.Errorf("%s (-ipvsadm +lvx):\n%s", want.Command, cmp.Diff(want, got))
	}
	t.Logf("%d command lines the same, %d different", same, different)
	if same < 440 || different > len(differences) {
		t.Errorf("%d command lines the same, %d different; at least 440 and at most %d are listed", same, different, len(differences))
	}
}
