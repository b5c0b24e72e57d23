package xdp

import (
	"fmt"
	"strings"
	"testing"
)

const twoReals = `$ ipvsadm -A -t 10.0.0.100:80 -s rr
$ ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.11 -g
$ ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g`

const web80 = "-t 10.0.0.100:80"

// nodest sets expire_nodest_conn.
func (f *facts) nodest(on bool) {
	f.t.Helper()
	f.state.ExpireNodestConn = on
	f.apply(f.state)
}

// pair opens two established connections, to rs2 and rs1, and returns their
// ports.
func (f *facts) pair() (two, one int) {
	f.t.Helper()
	f.expect("conns", f.conn("172.16.0.5", "10.0.0.100:80", "S A"), "rs2")
	f.expect("conns", f.conn("172.16.0.5", "10.0.0.100:80", "S A"), "rs1")
	return int(f.port) - 1, int(f.port)
}

// packet sends one on a known connection: "A->rs2 [14:59 ESTABLISHED]".
func (f *facts) packet(port int, flags string) string {
	f.t.Helper()
	return fmt.Sprintf("%s->%s [%s]", flags, f.tcp(port, flags), f.expires(port))
}

// ipvs-facts/07 section 1: weight 0 with live connections.
func TestFacts07QuiesceKeepsConnections(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.nodest(false)
	f.ipvsadm(twoReals)
	two, one := f.pair()
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.12 -g -w 0")
	f.expect("existing", f.packet(two, "A"), "A->rs2 [14:59 ESTABLISHED]")
	f.expect("existing", f.packet(one, "A"), "A->rs1 [14:59 ESTABLISHED]")
	f.expect("new", f.syns(4), "rs1 rs1 rs1 rs1")
	f.expect("table", f.table(web80), "1 5/0 2 1/0")
	f.expect("SYN on the existing tuple", f.packet(two, "S"), "S->rs2 [14:59 ESTABLISHED]")
	f.expect("SYN on the existing tuple", f.packet(one, "S"), "S->rs1 [14:59 ESTABLISHED]")
	f.nodest(true)
	f.expect("expire_nodest_conn=1", f.packet(two, "A"), "A->rs2 [14:59 ESTABLISHED]")
	f.expect("expire_nodest_conn=1", f.packet(one, "A"), "A->rs1 [14:59 ESTABLISHED]")
	f.expect("expire_nodest_conn=1", f.packet(two, "S"), "S->rs1 [00:59 SYN_RECV]")
	f.expect("expire_nodest_conn=1", f.packet(one, "S"), "S->rs1 [14:59 ESTABLISHED]")
}

// ipvs-facts/07 section 2, expire_nodest_conn=0: a deleted real's packets are
// dropped in silence until it is back.
func TestFacts07DeletedRealIsWaitedFor(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.nodest(false)
	f.ipvsadm(twoReals)
	f.port = 20002
	two, one := f.pair()
	both := `
    TCP 14:59  ESTABLISHED 172.16.0.5:20003   10.0.0.100:80      10.0.0.12:80
    TCP 14:59  ESTABLISHED 172.16.0.5:20004   10.0.0.100:80      10.0.0.11:80`
	f.ipvsadm("ipvsadm -d -t 10.0.0.100:80 -r 10.0.0.12")
	f.lists("after the deletion", both)
	f.expect("table", f.table(web80), "1 1/0")
	f.expect("packets", f.packet(two, "A"), "A->real_away [14:59 ESTABLISHED]")
	f.expect("packets", f.packet(one, "A"), "A->rs1 [14:59 ESTABLISHED]")
	f.expect("SYN", f.packet(two, "S"), "S->real_away [14:59 ESTABLISHED]")
	f.expect("SYN", f.packet(one, "S"), "S->rs1 [14:59 ESTABLISHED]")
	f.lists("after", both)
	f.ipvsadm("ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g")
	f.expect("table", f.table(web80), "1 1/0 2 1/0")
	f.expect("packets", f.packet(two, "A"), "A->rs2 [14:59 ESTABLISHED]")
	f.expect("packets", f.packet(one, "A"), "A->rs1 [14:59 ESTABLISHED]")

	// Long after: the kernel forgets a deleted real after two minutes, and
	// finds it again by its address; lvx keeps it while its flows live.
	f.ipvsadm("ipvsadm -d -t 10.0.0.100:80 -r 10.0.0.12")
	f.wait(130)
	f.lists("130 s later", strings.ReplaceAll(both, "14:59", "12:49"))
	f.ipvsadm("ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g")
	f.expect("table", f.table(web80), "1 1/0 2 1/0")
	f.expect("packets", f.packet(two, "A"), "A->rs2 [14:59 ESTABLISHED]")
	f.expect("packets", f.packet(one, "A"), "A->rs1 [14:59 ESTABLISHED]")
}

// A packet that is dropped for its real's absence does not keep the
// connection alive ("don't restart its timer", ip_vs_in).
func TestFacts07WaitingIsNotLiving(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.nodest(false)
	f.ipvsadm(twoReals)
	two, _ := f.pair()
	f.ipvsadm("ipvsadm -d -t 10.0.0.100:80 -r 10.0.0.12")
	f.wait(800)
	f.tcp(two, "A")
	f.wait(110)
	f.expect("910 s after its last forwarded packet", f.expires(two), "gone")
}

// ipvs-facts/07 section 2, expire_nodest_conn=1, which is lvx's default.
func TestFacts07DeletedRealIsReset(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(twoReals)
	two, one := f.pair()
	f.ipvsadm("ipvsadm -d -t 10.0.0.100:80 -r 10.0.0.12")
	f.expect("table", f.table(web80), "1 1/0")
	f.expect("packets", f.packet(two, "A"), "A->rst [gone]")
	f.expect("packets", f.packet(one, "A"), "A->rs1 [14:59 ESTABLISHED]")
	f.expect("SYN", f.packet(two, "S"), "S->rs1 [00:59 SYN_RECV]")
	f.expect("SYN", f.packet(one, "S"), "S->rs1 [14:59 ESTABLISHED]")
	f.ipvsadm("ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g")
	f.expect("table", f.table(web80), "1 2/0 2 0/0")
	f.expect("packets", f.packet(two, "A"), "A->rs1 [14:59 ESTABLISHED]")
	f.expect("packets", f.packet(one, "A"), "A->rs1 [14:59 ESTABLISHED]")
}

// ipvs-facts/07 section 2. Here lvx differs on purpose: the kernel ends a
// deleted real's connections at once; lvx at their next packet. One that is
// silent until the real is back goes on: a health check that failed once costs
// the idle nothing.
func TestFacts07IdleConnectionSurvivesAbsence(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(twoReals)
	two, _ := f.pair()
	f.ipvsadm("ipvsadm -d -t 10.0.0.100:80 -r 10.0.0.12")
	f.wait(130)
	f.ipvsadm("ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g")
	f.expect("packet", f.packet(two, "A"), "A->rs2 [14:59 ESTABLISHED]")
}

// ipvs-facts/07 section 3: a service deleted, then added again.
func TestFacts07ServiceReturns(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.nodest(false)
	f.ipvsadm(twoReals)
	f.port = 20014
	two, one := f.pair()
	both := `
    TCP 14:59  ESTABLISHED 172.16.0.5:20015   10.0.0.100:80      10.0.0.12:80
    TCP 14:59  ESTABLISHED 172.16.0.5:20016   10.0.0.100:80      10.0.0.11:80`
	f.ipvsadm("ipvsadm -D -t 10.0.0.100:80")
	f.lists("after -D", both)
	f.expect("packets", f.packet(two, "A"), "A->rst [14:59 ESTABLISHED]")
	f.expect("packets", f.packet(one, "A"), "A->rst [14:59 ESTABLISHED]")
	f.ipvsadm("ipvsadm -A -t 10.0.0.100:80 -s rr")
	f.expect("service back, no RS", f.packet(two, "A"), "A->real_away [14:59 ESTABLISHED]")
	f.ipvsadm("ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.11 -g; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g")
	f.expect("table", f.table(web80), "1 1/0 2 1/0")
	f.expect("packets", f.packet(two, "A"), "A->rs2 [14:59 ESTABLISHED]")
	f.expect("packets", f.packet(one, "A"), "A->rs1 [14:59 ESTABLISHED]")
	f.lists("at the end", both)
}

// ipvs-facts/07 section 4: ipvsadm -C and -R. With lvx's default, too: no
// packet came in between.
func TestFacts07ClearAndRestore(t *testing.T) {
	h := newStill(t, 4096, 1024)
	for _, keep := range []bool{false, true} {
		f := h.replay(t)
		f.nodest(!keep)
		f.ipvsadm(twoReals)
		two, one := f.pair()
		f.ipvsadm("ipvsadm -C")
		f.ipvsadm(twoReals)
		f.expect("packets", f.packet(two, "A"), "A->rs2 [14:59 ESTABLISHED]")
		f.expect("packets", f.packet(one, "A"), "A->rs1 [14:59 ESTABLISHED]")
	}
}

// ipvs-facts/07 section 5, as far as XDP goes: an edit of a live real.
func TestFacts07EditKeepsConnections(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(twoReals)
	two, one := f.pair()
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.12 -g -w 7; ipvsadm -E -t 10.0.0.100:80 -s wrr")
	f.expect("packets", f.packet(two, "A"), "A->rs2 [14:59 ESTABLISHED]")
	f.expect("packets", f.packet(one, "A"), "A->rs1 [14:59 ESTABLISHED]")
	f.expect("table", f.table(web80), "1 1/0 2 1/0")
}

// persistent300 begins sections 6 and 7: one connection of a persistent
// client, to rs2.
func (f *facts) persistent300(port uint16) int {
	f.t.Helper()
	f.ipvsadm(strings.Replace(twoReals, "rr", "rr -p 300", 1))
	f.port = port - 1
	f.expect("first conn", f.conn("172.16.0.5", "10.0.0.100:80", "S A"), "rs2")
	f.lists("first conn", fmt.Sprintf(`
    TCP 14:59  ESTABLISHED 172.16.0.5:%d   10.0.0.100:80      10.0.0.12:80
    TCP 04:59  ASSURED     172.16.0.5:0       10.0.0.100:80      10.0.0.12:80`, port))
	return int(port)
}

// ipvs-facts/07 section 6, expire_quiescent_template=0.
func TestFacts07TemplateOfQuiescedReal(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	old := f.persistent300(20019)
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.12 -g -w 0")
	f.expect("existing", f.packet(old, "A"), "A->rs2 [14:59 ESTABLISHED]")
	f.expect("new conn of the same client", f.conn("172.16.0.5", "10.0.0.100:80", "S"), "rs2")
	f.lists("same client", `
    TCP 14:59  ESTABLISHED 172.16.0.5:20019   10.0.0.100:80      10.0.0.12:80
    TCP 00:59  SYN_RECV    172.16.0.5:20020   10.0.0.100:80      10.0.0.12:80
    TCP 04:59  ASSURED     172.16.0.5:0       10.0.0.100:80      10.0.0.12:80`)
	f.expect("other client", f.send(6, "172.16.0.6:20020", "10.0.0.100:80", "S"), "rs1")
	f.expect("table", f.table(web80), "1 1/0 2 2/0")
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.12 -g -w 1")
	f.expect("weight back to 1", f.conn("172.16.0.5", "10.0.0.100:80", "S"), "rs2")
	f.lists("at the end", `
    TCP 00:59  SYN_RECV    172.16.0.5:20021   10.0.0.100:80      10.0.0.12:80
    TCP 04:59  NONE        172.16.0.6:0       10.0.0.100:80      10.0.0.11:80
    TCP 14:59  ESTABLISHED 172.16.0.5:20019   10.0.0.100:80      10.0.0.12:80
    TCP 00:59  SYN_RECV    172.16.0.5:20020   10.0.0.100:80      10.0.0.12:80
    TCP 04:59  ASSURED     172.16.0.5:0       10.0.0.100:80      10.0.0.12:80
    TCP 00:59  SYN_RECV    172.16.0.6:20020   10.0.0.100:80      10.0.0.11:80`)
}

// ipvs-facts/07 section 6, expire_quiescent_template=1. The kernel hides the
// old template at port 65535 until it ends; lvx deletes it.
func TestFacts07ExpireQuiescentTemplate(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.state.ExpireQuiescentTempl = true
	old := f.persistent300(20022)
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.12 -g -w 0")
	f.expect("existing", f.packet(old, "A"), "A->rs2 [14:59 ESTABLISHED]")
	f.expect("new conn of the same client", f.conn("172.16.0.5", "10.0.0.100:80", "S"), "rs1")
	f.lists("same client", `
    TCP 14:59  ESTABLISHED 172.16.0.5:20022   10.0.0.100:80      10.0.0.12:80
    TCP 04:59  NONE        172.16.0.5:0       10.0.0.100:80      10.0.0.11:80
    TCP 04:59  ASSURED     172.16.0.5:0       10.0.0.100:65535   10.0.0.12:65535
    TCP 00:59  SYN_RECV    172.16.0.5:20023   10.0.0.100:80      10.0.0.11:80`)
	f.expect("other client", f.send(6, "172.16.0.6:20023", "10.0.0.100:80", "S"), "rs1")
	f.expect("table", f.table(web80), "1 2/0 2 1/0")
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.12 -g -w 1")
	f.expect("weight back to 1", f.conn("172.16.0.5", "10.0.0.100:80", "S"), "rs1")
	f.lists("at the end", `
    TCP 04:59  NONE        172.16.0.6:0       10.0.0.100:80      10.0.0.11:80
    TCP 14:59  ESTABLISHED 172.16.0.5:20022   10.0.0.100:80      10.0.0.12:80
    TCP 00:59  SYN_RECV    172.16.0.6:20023   10.0.0.100:80      10.0.0.11:80
    TCP 04:59  NONE        172.16.0.5:0       10.0.0.100:80      10.0.0.11:80
    TCP 00:59  SYN_RECV    172.16.0.5:20024   10.0.0.100:80      10.0.0.11:80
    TCP 00:59  SYN_RECV    172.16.0.5:20023   10.0.0.100:80      10.0.0.11:80`)
}

// ipvs-facts/07 section 7, expire_nodest_conn=0.
func TestFacts07TemplateOfDeletedReal(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.nodest(false)
	old := f.persistent300(20025)
	f.ipvsadm("ipvsadm -d -t 10.0.0.100:80 -r 10.0.0.12")
	f.expect("new conn of the same client", f.conn("172.16.0.5", "10.0.0.100:80", "S"), "rs1")
	f.expect("existing", f.packet(old, "A"), "A->real_away [14:59 ESTABLISHED]")
	f.lists("without rs2", `
    TCP 00:59  SYN_RECV    172.16.0.5:20026   10.0.0.100:80      10.0.0.11:80
    TCP 14:59  ESTABLISHED 172.16.0.5:20025   10.0.0.100:80      10.0.0.12:80
    TCP 04:59  NONE        172.16.0.5:0       10.0.0.100:80      10.0.0.11:80
    TCP 04:59  ASSURED     172.16.0.5:0       10.0.0.100:65535   10.0.0.12:65535`)
	f.ipvsadm("ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g")
	f.expect("RS re-added; new conn", f.conn("172.16.0.5", "10.0.0.100:80", "S"), "rs1")
	f.expect("RS re-added; old", f.packet(old, "A"), "A->rs2 [14:59 ESTABLISHED]")
	f.lists("at the end", `
    TCP 00:59  SYN_RECV    172.16.0.5:20026   10.0.0.100:80      10.0.0.11:80
    TCP 14:59  ESTABLISHED 172.16.0.5:20025   10.0.0.100:80      10.0.0.12:80
    TCP 04:59  NONE        172.16.0.5:0       10.0.0.100:80      10.0.0.11:80
    TCP 04:59  ASSURED     172.16.0.5:0       10.0.0.100:65535   10.0.0.12:65535
    TCP 00:59  SYN_RECV    172.16.0.5:20027   10.0.0.100:80      10.0.0.11:80`)
}

// ipvs-facts/07 section 7, expire_nodest_conn=1.
func TestFacts07TemplateOfDeletedRealReset(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	old := f.persistent300(20028)
	f.ipvsadm("ipvsadm -d -t 10.0.0.100:80 -r 10.0.0.12")
	f.expect("new conn of the same client", f.conn("172.16.0.5", "10.0.0.100:80", "S"), "rs1")
	f.expect("existing", f.packet(old, "A"), "A->rst [gone]")
	f.lists("without rs2", `
    TCP 00:59  SYN_RECV    172.16.0.5:20029   10.0.0.100:80      10.0.0.11:80
    TCP 04:59  NONE        172.16.0.5:0       10.0.0.100:80      10.0.0.11:80`)
	f.ipvsadm("ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g")
	f.expect("RS re-added; new conn", f.conn("172.16.0.5", "10.0.0.100:80", "S"), "rs1")
	f.expect("RS re-added; old", f.packet(old, "A"), "A->rst [gone]")
	f.lists("at the end", `
    TCP 00:59  SYN_RECV    172.16.0.5:20030   10.0.0.100:80      10.0.0.11:80
    TCP 00:59  SYN_RECV    172.16.0.5:20029   10.0.0.100:80      10.0.0.11:80
    TCP 04:59  NONE        172.16.0.5:0       10.0.0.100:80      10.0.0.11:80`)
}

// UDP of a removed real moves with its next packet, whatever
// expire_nodest_conn says: nothing would tell the client to start anew. So it
// does when the real stops answering ARP, for persistent clients, too.
func TestUDPMovesAtOnce(t *testing.T) {
	h := newStill(t, 4096, 1024)
	for _, c := range []struct {
		name, service string
		leave         func(f *facts)
	}{
		{"deleted", "rr", func(f *facts) { f.ipvsadm("ipvsadm -d -u 10.0.0.100:53 -r 10.0.0.13") }},
		{"deleted, expire_nodest_conn=0", "rr", func(f *facts) {
			f.nodest(false)
			f.ipvsadm("ipvsadm -d -u 10.0.0.100:53 -r 10.0.0.13")
		}},
		{"silent", "rr", func(f *facts) { f.silence(3) }},
		{"deleted, persistent", "rr -p 300", func(f *facts) { f.ipvsadm("ipvsadm -d -u 10.0.0.100:53 -r 10.0.0.13") }},
		{"silent, persistent", "rr -p 300", func(f *facts) { f.silence(3) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := h.replay(t)
			f.ipvsadm(strings.Replace(threeUDP, "rr", c.service, 1))
			packet := func() string { return f.send(17, "172.16.0.5:5", "10.0.0.100:53", "") }
			f.expect("first", packet(), "rs3")
			c.leave(f)
			if got := packet(); got != "rs1" && got != "rs2" {
				t.Errorf("after rs3 left: %s", got)
			}
		})
	}
}

// silence takes a real's answer to ARP away.
func (f *facts) silence(n int) {
	f.t.Helper()
	f.net.silent[realN(n)] = "does not answer ARP"
	f.apply(f.state)
}
