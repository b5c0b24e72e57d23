package ipvsadm

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/transcript"
)

// tableDirector is a director of which only its table is real.
type tableDirector struct{ Table }

func (d *tableDirector) Edit(commands []Command) (r Result, err error) {
	for _, c := range commands {
		r.Failures = append(r.Failures, d.Do(c))
	}
	return r, nil
}

func (d *tableDirector) List(View) (Listing, error) {
	l := Listing{Timeouts: ListedTimeouts{TCP: 900, TCPFin: 120, UDP: 300}, Daemons: d.Daemons}
	for i, to := range []*int{&l.Timeouts.TCP, &l.Timeouts.TCPFin, &l.Timeouts.UDP} {
		if d.Timeouts[i] != 0 {
			*to = d.Timeouts[i]
		}
	}
	for _, e := range d.Services {
		s := ListedService{
			Mark: e.Mark, Proto: e.Proto, Addr: e.Addr, Port: e.Port, IPv6: e.Is6(), Scheduler: e.Scheduler,
			Persistence: e.Persistent, OnePacket: e.OnePacket, Engine: e.Engine, Flags: flagWords(e.Scheduler, e.Flags),
		}
		if e.Mask.IsValid() {
			s.Mask = e.Mask.String()
		}
		if e.Persistent > 0 && e.Prefix > 0 {
			s.Mask = maskOf(e.Prefix, true)
		}
		for _, r := range e.Servers {
			s.Reals = append([]ListedReal{{
				Addr: r.Addr, Port: r.Port, Weight: r.Weight, Upper: r.Upper, Lower: r.Lower, Tunnel: r.Tunnel,
				Forward: forwardNames[r.Forward],
			}}, s.Reals...)
		}
		l.Services = append(l.Services, s)
	}
	return l, nil
}

// fixedHost knows the ports of the recording and no host.
type fixedHost struct{ ServicePorts }

func (fixedHost) Addr(string) (netip.Addr, bool) { return netip.Addr{}, false }

func (h fixedHost) Port(name string, proto lb.Protocol) (uint16, bool) {
	return h.ServicePorts.Port(name, proto)
}

// recordedMTU knows the one interface of the recording.
func recordedMTU(device string) (int, bool) { return 65536, device == "lo" }

// TestTranscript: on a table of its own, the package answers 440 command
// lines as ipvsadm does on the kernel's.
func TestTranscript(t *testing.T) {
	d := tableDirector{Table{MTU: recordedMTU}}
	names := recordedNames(t).(fixedNames)
	all := transcript.Parse(readTestdata(t, "transcript.txt"))
	if len(all) < 440 {
		t.Fatalf("%d commands in the transcript only", len(all))
	}
	for _, want := range all {
		got := transcript.Exchange{Command: want.Command, Stdin: want.Stdin}
		var stdout, stderr strings.Builder
		words := strings.Fields(want.Command)
		got.Status = Call{
			Program: words[0], Args: words[1:], Host: fixedHost{names.ports}, Names: names, Director: &d,
			Stdin: strings.NewReader(want.Stdin), Stdout: &stdout, Stderr: &stderr,
		}.Run()
		got.Stdout, got.Stderr = stdout.String(), stderr.String()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-ipvsadm +lvx):\n%s", want.Command, diff)
		}
	}
}
