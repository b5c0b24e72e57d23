package lbtest

import (
	"fmt"
	"net/netip"
	"reflect"

	"github.com/lvx-lb/lvx/pkg/lb"
)

func idempotent(b *bench) {
	s := state(service(lb.RR, reals(1, 1, 1)...))
	b.apply(s)
	src, to := b.established(client, web)
	b.apply(s)
	b.apply(s.Clone())
	b.want("old connection", b.send(lb.TCP, src, web, "A"), to)
	b.want("rotation goes on", b.conns(5, web), "2 1 3 2 1")
	b.apply(s)
	b.want("and on", b.conns(3, web), "3 2 1")
	if st := b.stats(); st.Services[0].Conns != 9 {
		b.Errorf("connections counted: %d, want 9", st.Services[0].Conns)
	}
}

func stateUntouched(b *bench) {
	svc := persistent(24)
	svc.Sorry = sorryIP
	s := state(svc)
	before := s.Clone()
	b.apply(s)
	b.conns(3, web)
	if !reflect.DeepEqual(s, before) {
		b.Errorf("the backend changed the state it was given:\n got %+v\nwant %+v", s, before)
	}
}

func repair(b *bench) {
	s := state(service(lb.RR, reals(1, 1)...))
	b.apply(s)
	b.conns(2, web)
	if err := b.h.Damage(); err != nil {
		b.Fatalf("damage: %v", err)
	}
	b.apply(s)
	got := b.conns(4, web)
	if got != "2 1 2 1" && got != "1 2 1 2" {
		b.Errorf("after the repair: got %s, want both reals in turn", got)
	}
}

func (b *bench) stats() lb.Stats {
	b.Helper()
	st, err := b.h.Stats()
	if err != nil {
		b.Fatalf("stats: %v", err)
	}
	return st
}

func counters(b *bench) {
	quiet := service(lb.RR, reals(1)...)
	quiet.Name, quiet.Listeners = "quiet", []lb.Listener{tcp(vip, 25, 25)}
	b.apply(state(quiet, service(lb.RR, reals(1, 1)...)))
	src, _ := b.established(client, web) // real 2: SYN, ACK
	b.send(lb.TCP, src, web, "A")
	b.conns(1, web)                          // real 1: SYN
	b.conns(1, netip.AddrPortFrom(vip, 81))  // not ours
	b.send(lb.TCP, b.from(client), web, "A") // no flow: not counted
	b.want("next", b.conns(1, web), "2")     // real 2: SYN
	st := b.stats()
	if len(st.Services) != 2 || st.Services[0].Name != "quiet" || st.Services[1].Name != "web" {
		b.Fatalf("services out of order: %+v", st.Services)
	}
	if c := st.Services[0].Counters; c != (lb.Counters{}) {
		b.Errorf("a service without traffic counted %+v", c)
	}
	svc := st.Services[1]
	b.counted("service", svc.Counters, 3, 5)
	if len(svc.Reals) != 2 || svc.Reals[0].Addr != server(1, 1).Addr {
		b.Fatalf("reals out of order: %+v", svc.Reals)
	}
	b.counted("real 1", svc.Reals[0].Counters, 1, 1)
	b.counted("real 2", svc.Reals[1].Counters, 2, 4)
	if len(st.Verdicts) == 0 {
		b.Error("no verdicts")
	}
}

// counted checks connections and packets exactly; a TCP packet has 40 bytes
// at least, and 60 is more than a harness has reason to send.
func (b *bench) counted(what string, c lb.Counters, conns, pkts uint64) {
	b.Helper()
	if c.Conns != conns || c.InPkts != pkts || c.InBytes < 40*pkts || c.InBytes > 60*pkts {
		b.Errorf("%s counted %+v, want %d connections and %d packets", what, c, conns, pkts)
	}
	if c.OutPkts != 0 || c.OutBytes != 0 {
		b.Errorf("%s counted replies, which direct routing does not see: %+v", what, c)
	}
}

func activeInactive(b *bench) {
	b.apply(state(service(lb.RR, reals(1)...)))
	b.conns(1, web) // SYN_RECV is active
	b.established(client, web)
	src, _ := b.established(client, web)
	b.send(lb.TCP, src, web, "FA")
	r := b.stats().Services[0].Reals[0]
	if r.Active != 2 || r.Inactive != 1 {
		b.Errorf("active %d, inactive %d; want 2 and 1", r.Active, r.Inactive)
	}
}

func observed(b *bench) {
	marked := service(lb.SH, reals(1)...)
	marked.Name, marked.Mark = "marked", 10
	marked.Listeners = []lb.Listener{tcp(vip, 8080, 8081)}
	b.apply(state(marked, service(lb.WRR, reals(3, 0, 2)...)))
	o, err := b.h.Observed()
	if err != nil {
		b.Fatalf("observed: %v", err)
	}
	if o.Backend == "" || o.Mode == "" {
		b.Errorf("backend %q, mode %q: want both named", o.Backend, o.Mode)
	}
	got := ""
	for _, s := range o.Services {
		got += fmt.Sprintf("%s %d:", s.Name, s.Mark)
		for _, r := range s.Reals {
			got += fmt.Sprintf(" %s*%d", short(Outcome{Real: r.Addr}), r.Weight)
		}
		got += "; "
	}
	b.want("services", got, "marked 10: 1*1; web 0: 1*3 2*0 3*2; ")
}

func connections(b *bench) {
	b.apply(state(persistent(0)))
	src, _ := b.established(client, web)
	all, err := b.h.Connections(0)
	if err != nil {
		b.Fatalf("connections: %v", err)
	}
	var conns, templates int
	for _, c := range all {
		switch {
		case c.Template:
			templates++
			if c.Client.Addr() != client || c.Client.Port() != 0 || c.Real.Addr() != server(3, 1).Addr {
				b.Errorf("template %+v", c)
			}
		default:
			conns++
			if c.Service != "web" || c.Proto != lb.TCP || c.State != "ESTABLISHED" || c.Client != src ||
				c.Virtual != web || c.Real.Addr() != server(3, 1).Addr || c.Expires <= 0 {
				b.Errorf("connection %+v", c)
			}
		}
	}
	if conns != 1 || templates != 1 {
		b.Errorf("%d connections and %d templates, want one of each", conns, templates)
	}
	if some, err := b.h.Connections(1); err != nil || len(some) != 1 {
		b.Errorf("limit 1: got %d, error %v", len(some), err)
	}
}

func explain(b *bench) {
	b.apply(state(service(lb.RR, reals(1, 1, 1)...)))
	b.want("before", b.conns(1, web), "3")
	for range 4 {
		e, err := b.h.Explain(lb.Packet{Proto: lb.TCP, Src: b.from(client), Dst: web, Flags: "S"})
		if err != nil {
			b.Fatalf("explain: %v", err)
		}
		if e.Service != "web" || e.Verdict == "" || len(e.Steps) == 0 {
			b.Errorf("explanation %+v", e)
		}
	}
	e, err := b.h.Explain(lb.Packet{Proto: lb.TCP, Src: b.from(client), Dst: netip.AddrPortFrom(vip, 81)})
	if err != nil || e.Service != "" || e.Real != "" {
		b.Errorf("packet to nobody: %+v, error %v", e, err)
	}
	b.want("after", b.conns(3, web), "2 1 3")
	if st := b.stats(); st.Services[0].Conns != 4 || st.Services[0].InPkts != 4 {
		b.Errorf("explaining was counted: %+v", st.Services[0].Counters)
	}
}

func closeAll(b *bench) {
	b.apply(state(service(lb.RR, reals(1, 1)...)))
	src, _ := b.established(client, web)
	if err := b.h.Close(false); err != nil {
		b.Fatalf("close: %v", err)
	}
	b.want("old connection", b.send(lb.TCP, src, web, "A"), "-")
	b.want("new connection", b.conns(1, web), "-")
}
