package xdp

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// The facts tests repeat on the real program what the kernel's IPVS was seen
// to do (ipvs-facts), with its ipvsadm commands turned into edits of the
// state. Reals are 10.0.0.11, .12 ... and are called rs1, rs2 ... as there;
// "rst" is a packet that is passed up for the kernel to reset.

// facts is a director under replay.
type facts struct {
	*harness
	t     *testing.T
	state lb.State
	marks map[string][]lb.Listener // what iptables gave each mark
	port  uint16                   // of the last new connection, as the recorder counted them

	seconds, ticks int // that have passed
}

// replay gives each section of a file a director without services.
func (h *harness) replay(t *testing.T) *facts {
	h.reset(t)
	h.grace = func() {} // no packet runs beside the edits
	return &facts{harness: h, t: t, state: lb.State{ExpireNodestConn: true}, marks: map[string][]lb.Listener{}, port: 20000}
}

// ipvsadm carries out commands as the shell would: "ipvsadm -A ...; ipvsadm
// -a ...". What lb.State has no word for is an error.
func (f *facts) ipvsadm(lines string) {
	f.t.Helper()
	for _, cmd := range strings.FieldsFunc(lines, func(r rune) bool { return r == ';' || r == '\n' }) {
		words := strings.Fields(strings.NewReplacer("$", "", "ipvsadm", "").Replace(cmd))
		if len(words) == 0 {
			continue
		}
		c, fail := ipvsadm.Parse("ipvsadm", words, nil)
		if fail != nil {
			f.t.Fatalf("%s: %s", cmd, fail.Text)
		}
		f.command(c)
		f.apply(f.state)
	}
}

// command carries out one command on the state.
func (f *facts) command(c ipvsadm.Command) {
	f.t.Helper()
	switch c.Op {
	case ipvsadm.Flush:
		f.state.Services = nil
	case ipvsadm.SetTimeouts:
		f.setTimeouts(c.Timeouts)
	case ipvsadm.AddService:
		f.state.Services = append(f.state.Services, f.service(c))
	case ipvsadm.EditService:
		s := f.find(c.Key)
		edited := f.service(c)
		edited.Reals = s.Reals
		*s = edited
	case ipvsadm.DeleteService:
		s := f.find(c.Key)
		f.state.Services = slices.DeleteFunc(f.state.Services, func(v lb.Service) bool { return v.Name == s.Name })
	default:
		f.real(f.find(c.Key), c)
	}
}

// serviceName is how the tests call a service: "-t 10.0.0.100:80", "-f 1".
func serviceName(k ipvsadm.Key) string {
	switch {
	case k.Mark != 0:
		return fmt.Sprintf("-f %d", k.Mark)
	case k.Proto == lb.UDP:
		return "-u " + netip.AddrPortFrom(k.Addr, k.Port).String()
	}
	return "-t " + netip.AddrPortFrom(k.Addr, k.Port).String()
}

func (f *facts) find(k ipvsadm.Key) *lb.Service {
	f.t.Helper()
	i := slices.IndexFunc(f.state.Services, func(v lb.Service) bool { return v.Name == serviceName(k) })
	if i < 0 {
		f.t.Fatalf("no service %q", serviceName(k))
	}
	return &f.state.Services[i]
}

func (f *facts) service(c ipvsadm.Command) lb.Service {
	f.t.Helper()
	s := lb.Service{
		Name: serviceName(c.Key), Mark: c.Key.Mark, Scheduler: lb.Scheduler(c.Service.Scheduler), OnePacket: c.Service.OnePacket,
		Persistence: lb.Persistence{Timeout: time.Duration(c.Service.Persistent) * time.Second},
	}
	if s.Mark != 0 {
		s.Listeners = f.marks[fmt.Sprint(s.Mark)]
	} else {
		s.Listeners = []lb.Listener{{Addr: c.Key.Addr, Proto: c.Key.Proto, First: c.Key.Port, Last: c.Key.Port}}
	}
	flags := map[lb.Scheduler][2]lb.SchedFlags{lb.SH: {lb.SHFallback, lb.SHPort}, lb.MH: {lb.MHFallback, lb.MHPort}}
	for bit, flag := range flags[s.Scheduler] {
		if c.Service.Flags>>bit&1 != 0 {
			s.Flags |= flag
		}
	}
	if m := c.Service.Mask; m.IsValid() {
		s.Persistence.Prefix, _ = net.IPMask(m.AsSlice()).Size()
	}
	return s
}

// real adds, edits or deletes a real. One that is added again is the last.
func (f *facts) real(s *lb.Service, c ipvsadm.Command) {
	f.t.Helper()
	r := lb.Real{Addr: c.Server.Addr, Weight: uint16(c.Server.Weight), Upper: c.Server.Upper, Lower: c.Server.Lower}
	i := slices.IndexFunc(s.Reals, r.Same)
	switch {
	case c.Op == ipvsadm.AddServer && i < 0:
		s.Reals = append(slices.Clone(s.Reals), r)
	case c.Op == ipvsadm.EditServer && i >= 0:
		s.Reals = slices.Clone(s.Reals)
		s.Reals[i] = r
	case c.Op == ipvsadm.DeleteServer && i >= 0:
		s.Reals = slices.Delete(slices.Clone(s.Reals), i, i+1)
	default:
		f.t.Fatalf("command not understood: %+v", c)
	}
}

// setTimeouts is ipvsadm --set: 0 leaves a value as it is.
func (f *facts) setTimeouts(values [3]int) {
	to := []*time.Duration{&f.state.Timeouts.TCP, &f.state.Timeouts.TCPFin, &f.state.Timeouts.UDP}
	for i, n := range values {
		if n > 0 {
			*to[i] = time.Duration(n) * time.Second
		}
	}
}

// send sends one packet and tells who got it.
func (f *facts) send(proto lb.Protocol, src, dst, flags string) string {
	f.t.Helper()
	p := lb.Packet{Proto: proto, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Flags: flags}
	in := frame(p)
	if proto == lb.TCP && flags == "none" {
		in[47] = 0
	}
	return f.who(in)
}

// who runs a frame and tells who got it.
func (f *facts) who(in []byte) string {
	f.t.Helper()
	verdict, out, action := f.verdict(in)
	switch {
	case verdict == "forwarded" || verdict == "icmp_forwarded":
		return fmt.Sprintf("rs%d", out[5]-10)
	case verdict == "no_flow" || verdict == "real_gone" || verdict == "not_ours" || verdict == "no_listener":
		return "rst"
	case action == tx:
		return fmt.Sprintf("icmp %d/%d", out[34], out[35])
	}
	return verdict
}

// tcp sends a TCP packet from 172.16.0.5 to 10.0.0.100:80.
func (f *facts) tcp(port int, flags string) string {
	f.t.Helper()
	return f.send(lb.TCP, fmt.Sprintf("172.16.0.5:%d", port), "10.0.0.100:80", flags)
}

// conn opens a connection from the next port; "S A" sends both packets.
func (f *facts) conn(client, dst, flags string) string {
	f.t.Helper()
	f.port++
	who := ""
	for _, fl := range strings.Fields(flags) {
		who = f.send(lb.TCP, fmt.Sprintf("%s:%d", client, f.port), dst, fl)
	}
	return who
}

// syns opens connections of 172.16.0.5 to 10.0.0.100:80.
func (f *facts) syns(n int) string {
	f.t.Helper()
	var got []string
	for range n {
		got = append(got, f.conn("172.16.0.5", "10.0.0.100:80", "S"))
	}
	return strings.Join(got, " ")
}

func (f *facts) expect(what, got, want string) {
	f.t.Helper()
	if got != want {
		f.t.Errorf("%s: got %s, want %s", what, got, want)
	}
}

// wait lets so many seconds pass, the sweeper at work.
func (f *facts) wait(seconds int) {
	f.seconds += seconds
	n := int(time.Duration(f.seconds) * time.Second / ticksDuration(1))
	f.pass(n - f.ticks)
	f.ticks = n
}

// listing writes the connections as ipvsadm -lnc does, in its words.
func (f *facts) listing() []string {
	f.t.Helper()
	all, err := f.Connections(0)
	must(f.t, err)
	var lines []string
	for _, c := range all {
		proto := strings.ToUpper(c.Proto.String())
		if c.Proto == 0 {
			proto = "IP"
		}
		s := int(c.Expires / time.Second)
		lines = append(lines, fmt.Sprintf("%s %02d:%02d %s %s %s %s", proto, s/60, s%60, c.State, c.Client, c.Virtual, c.Real))
	}
	slices.Sort(lines)
	return lines
}

var clock = regexp.MustCompile(`\b(\d\d):(\d\d)\b`)

// lists compares the connections with a listing of the facts. Times may
// differ by the length of a tick and of a second. A template that the kernel
// has hidden away (port 65535) lvx has deleted.
func (f *facts) lists(what, want string) {
	f.t.Helper()
	var lines []string
	for _, line := range strings.Split(want, "\n") {
		if line = strings.Join(strings.Fields(line), " "); line != "" && !strings.Contains(line, ":65535") {
			lines = append(lines, line)
		}
	}
	byWhom := func(line string) string { return clock.ReplaceAllString(line, "") }
	cmpLines := func(a, b string) int { return strings.Compare(byWhom(a), byWhom(b)) }
	got := f.listing()
	slices.SortFunc(got, cmpLines)
	slices.SortFunc(lines, cmpLines)
	if !slices.EqualFunc(got, lines, func(a, b string) bool { return byWhom(a) == byWhom(b) && near(seconds(a), seconds(b)) }) {
		f.t.Errorf("%s: connections\n\t%s\nwant\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(lines, "\n\t"))
	}
}

// seconds reads the time of a listing's line.
func seconds(line string) int {
	m := clock.FindStringSubmatch(line)
	if m == nil {
		return -1
	}
	minutes, _ := strconv.Atoi(m[1])
	s, _ := strconv.Atoi(m[2])
	return 60*minutes + s
}

func near(a, b int) bool { return max(a-b, b-a) <= 2 }

// expires is the time and state of the only connection from a port.
func (f *facts) expires(port int) string {
	f.t.Helper()
	for _, line := range f.listing() {
		if strings.Contains(line, fmt.Sprintf(":%d ", port)) {
			return strings.Join(strings.Fields(line)[1:3], " ")
		}
	}
	return "gone"
}

// table gives a service's reals as "1 4/0 2 0/0": number, active/inactive.
func (f *facts) table(service string) string {
	f.t.Helper()
	st, err := f.Stats()
	must(f.t, err)
	var out []string
	for _, s := range st.Services {
		for _, r := range s.Reals {
			if s.Name == service {
				out = append(out, fmt.Sprintf("%d %d/%d", r.Addr.As4()[3]-10, r.Active, r.Inactive))
			}
		}
	}
	return strings.Join(out, " ")
}

// section is a part of a facts file: "== title", then lines.
type section struct {
	title string
	lines []string
}

// sectionsOf reads a file of the facts. Those of the schedulers are golden
// data of pkg/sched, too.
func sectionsOf(t *testing.T, file string, want int) []section {
	t.Helper()
	raw, err := os.ReadFile(file)
	must(t, err)
	var all []section
	for _, text := range strings.Split(string(raw), "\n== ")[1:] {
		title, body, _ := strings.Cut(text, "\n")
		all = append(all, section{title, strings.Split(strings.TrimRight(body, "\n"), "\n")})
	}
	if len(all) != want {
		t.Fatalf("%s: %d sections found, want %d", file, len(all), want)
	}
	return all
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 32)
	must(t, err)
	return n
}
