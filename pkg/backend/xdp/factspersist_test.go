package xdp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// persistent is threeReals with options of the service: "-p 60".
func persistent(options string) string { return strings.Replace(threeReals, "-s rr", "-s "+options, 1) }

// tpl is a client's template as a listing shows it, "gone" without one.
func (f *facts) tpl(client string) string {
	f.t.Helper()
	for _, line := range f.listing() {
		if strings.Contains(line, " "+client+":0 ") {
			return line
		}
	}
	return "gone"
}

// template compares a client's template with a line of the facts.
func (f *facts) template(what, client, want string) {
	f.t.Helper()
	got, want := f.tpl(client), strings.Join(strings.Fields(want), " ")
	if !near(seconds(got), seconds(want)) || clock.ReplaceAllString(got, "") != clock.ReplaceAllString(want, "") {
		f.t.Errorf("%s: template %s, want %s", what, got, want)
	}
}

// persists counts templates: "1 0 2 0 3 1".
func (f *facts) persists(want string) {
	f.t.Helper()
	st, err := f.Stats()
	must(f.t, err)
	var got []string
	for _, r := range st.Services[0].Reals {
		got = append(got, fmt.Sprintf("%d %d", r.Addr.As4()[3]-10, r.Persist))
	}
	f.expect("PersistConn", strings.Join(got, " "), want)
}

// from opens a connection of a client to VIP:80.
func (f *facts) from(client, flags string) string {
	f.t.Helper()
	return f.conn("172.16."+client, "10.0.0.100:80", flags)
}

// ipvs-facts/08 section 1: a template's birth.
func TestFacts08TemplateCreation(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(persistent("rr -p 60"))
	f.expect("SYN", f.from("0.5", "S"), "rs3")
	f.lists("after the SYN", `
    TCP 00:59  NONE        172.16.0.5:0       10.0.0.100:80      10.0.0.13:80
    TCP 00:59  SYN_RECV    172.16.0.5:20001   10.0.0.100:80      10.0.0.13:80`)
	f.persists("1 0 2 0 3 1")
	f.expect("table", f.table(web80), "1 0/0 2 0/0 3 1/0")
	f.expect("ACK", f.tcp(20001, "A"), "rs3")
	f.lists("after the ACK", `
    TCP 00:59  ASSURED     172.16.0.5:0       10.0.0.100:80      10.0.0.13:80
    TCP 14:59  ESTABLISHED 172.16.0.5:20001   10.0.0.100:80      10.0.0.13:80`)
	f.expect("second conn, other clients", f.from("0.5", "S")+f.from("0.6", "S")+f.from("0.7", "S")+f.from("0.8", "S"), "rs3rs2rs1rs3")
	f.lists("at the end", `
    TCP 00:59  NONE        172.16.0.8:0       10.0.0.100:80      10.0.0.13:80
    TCP 00:59  SYN_RECV    172.16.0.8:20005   10.0.0.100:80      10.0.0.13:80
    TCP 00:59  NONE        172.16.0.7:0       10.0.0.100:80      10.0.0.11:80
    TCP 00:59  NONE        172.16.0.6:0       10.0.0.100:80      10.0.0.12:80
    TCP 00:59  ASSURED     172.16.0.5:0       10.0.0.100:80      10.0.0.13:80
    TCP 14:59  ESTABLISHED 172.16.0.5:20001   10.0.0.100:80      10.0.0.13:80
    TCP 00:59  SYN_RECV    172.16.0.6:20003   10.0.0.100:80      10.0.0.12:80
    TCP 00:59  SYN_RECV    172.16.0.5:20002   10.0.0.100:80      10.0.0.13:80
    TCP 00:59  SYN_RECV    172.16.0.7:20004   10.0.0.100:80      10.0.0.11:80`)
	f.persists("1 1 2 1 3 2")
	f.expect("table", f.table(web80), "1 1/0 2 1/0 3 3/0")
}

// ipvs-facts/08 section 2: a new connection restarts the timer, data do not.
func TestFacts08TemplateTimer(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(persistent("rr -p 60"))
	f.expect("t=0", f.from("0.5", "S A"), "rs3")
	is := func(what, left string) {
		t.Helper()
		f.template(what, "172.16.0.5", "TCP "+left+" ASSURED 172.16.0.5:0 10.0.0.100:80 10.0.0.13:80")
	}
	is("t=0", "00:59")
	f.wait(30)
	is("t=30 idle", "00:29")
	f.tcp(20001, "PA")
	f.tcp(20001, "A")
	is("t=30 after data", "00:29")
	f.wait(10)
	is("t=40 before new conn", "00:19")
	f.expect("t=40", f.from("0.5", "S"), "rs3")
	is("t=40 after a NEW conn", "00:59")
}

// ipvs-facts/08 section 3: a template does not end while a connection of it
// lives. lvx renews it some seconds before its end, not at its end, so that
// it shows up to 1:12; its ends are those of the kernel.
func TestFacts08TemplateIsRenewed(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(persistent("rr -p 60"))
	f.expect("t=0", f.from("0.5", "S A"), "rs3")
	for at := 12; at <= 240; at += 12 {
		f.wait(12)
		left := 60 - at%60
		got := f.tpl("172.16.0.5")
		if s := seconds(got); !near(s, left) && !near(s, left+60) {
			t.Errorf("t=%d: %s, want %d or %d s left", at, got, left, left+60)
		}
	}
	f.wait(61)
	f.expect("t=301 new conn", f.from("0.5", "S"), "rs3")
	f.lists("t=301", `
    TCP 09:59  ESTABLISHED 172.16.0.5:20001   10.0.0.100:80      10.0.0.13:80
    TCP 00:59  SYN_RECV    172.16.0.5:20002   10.0.0.100:80      10.0.0.13:80
    TCP 00:59  ASSURED     172.16.0.5:0       10.0.0.100:80      10.0.0.13:80`)
	f.tcp(20001, "R")
	for past := 5; past <= 45; past += 5 {
		f.wait(5)
		f.template(fmt.Sprintf("+%d", past), "172.16.0.5",
			fmt.Sprintf("TCP 00:%02d ASSURED 172.16.0.5:0 10.0.0.100:80 10.0.0.13:80", 59-past))
	}
	// The kernel's is gone at +60. The SYN_RECV lived until then, too, so
	// lvx, which looked some seconds before, gave it a minute more.
	f.wait(80)
	f.lists("+125", "")
}

// ipvs-facts/08 section 4: templates outlive their connections.
func TestFacts08TemplateOutlives(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(persistent("rr -p 600"))
	f.port = 20009
	f.from("0.5", "S A R")
	f.lists("t=0", `
    TCP 00:09 CLOSE 172.16.0.5:20010 10.0.0.100:80 10.0.0.13:80
    TCP 09:59 ASSURED 172.16.0.5:0 10.0.0.100:80 10.0.0.13:80`)
	f.wait(30)
	f.lists("t=30", "TCP 09:29 ASSURED 172.16.0.5:0 10.0.0.100:80 10.0.0.13:80")
	f.expect("new conn", f.from("0.5", "S"), "rs3")
	f.expect("never-established client", f.from("0.9", "S"), "rs2")
	f.template("SYN only", "172.16.0.9", "TCP 09:59 NONE 172.16.0.9:0 10.0.0.100:80 10.0.0.12:80")
	f.wait(90)
	f.template("+90s", "172.16.0.9", "TCP 08:29 NONE 172.16.0.9:0 10.0.0.100:80 10.0.0.12:80")
}

// ipvs-facts/08 section 5: -M 255.255.255.0.
func TestFacts08Netmask(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(persistent("rr -p 60 -M 255.255.255.0"))
	f.port = 20012
	got := ""
	for _, client := range []string{"0.5", "0.77", "0.200", "1.5", "2.5"} {
		got += f.from(client, "S")
	}
	f.expect("reals", got, "rs3rs3rs3rs2rs1")
	f.lists("connections", `
    TCP 00:59  SYN_RECV    172.16.2.5:20017   10.0.0.100:80      10.0.0.11:80
    TCP 00:59  NONE        172.16.2.0:0       10.0.0.100:80      10.0.0.11:80
    TCP 00:59  SYN_RECV    172.16.0.5:20013   10.0.0.100:80      10.0.0.13:80
    TCP 00:59  NONE        172.16.0.0:0       10.0.0.100:80      10.0.0.13:80
    TCP 00:59  SYN_RECV    172.16.0.77:20014  10.0.0.100:80      10.0.0.13:80
    TCP 00:59  NONE        172.16.1.0:0       10.0.0.100:80      10.0.0.12:80
    TCP 00:59  SYN_RECV    172.16.0.200:20015 10.0.0.100:80      10.0.0.13:80
    TCP 00:59  SYN_RECV    172.16.1.5:20016   10.0.0.100:80      10.0.0.12:80`)
	f.expect("table", f.table(web80), "1 1/0 2 1/0 3 3/0")
}

// ipvs-facts/08 section 6: every port of a VIP (PCC), and an exact one that
// wins over it.
func TestFacts08EveryPort(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(strings.ReplaceAll(persistent("rr -p 60"), ":80", ":0"))
	f.port = 20017
	to := func(client, port string) string { return f.conn("172.16.0."+client, "10.0.0.100:"+port, "S") }
	f.expect("reals", to("5", "80")+to("5", "443")+to("5", "22")+" "+to("6", "80")+to("6", "443")+" "+to("7", "8080"), "rs3rs3rs3 rs2rs2 rs1")
	six := `
    TCP 00:59  SYN_RECV    172.16.0.6:20021   10.0.0.100:80      10.0.0.12:80
    TCP 00:59  NONE        172.16.0.7:0       10.0.0.100:0       10.0.0.11:0
    TCP 00:59  NONE        172.16.0.6:0       10.0.0.100:0       10.0.0.12:0
    TCP 00:59  SYN_RECV    172.16.0.5:20019   10.0.0.100:443     10.0.0.13:443
    TCP 00:59  SYN_RECV    172.16.0.5:20020   10.0.0.100:22      10.0.0.13:22
    TCP 00:59  SYN_RECV    172.16.0.6:20022   10.0.0.100:443     10.0.0.12:443
    TCP 00:59  NONE        172.16.0.5:0       10.0.0.100:0       10.0.0.13:0
    TCP 00:59  SYN_RECV    172.16.0.7:20023   10.0.0.100:8080    10.0.0.11:8080
    TCP 00:59  SYN_RECV    172.16.0.5:20018   10.0.0.100:80      10.0.0.13:80`
	f.lists("connections", six)
	f.expect("table", f.table("-t 10.0.0.100:0"), "1 1/0 2 2/0 3 3/0")
	f.ipvsadm("ipvsadm -A -t 10.0.0.100:80 -s rr; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.11 -g")
	f.expect("same client", to("5", "80")+to("5", "443"), "rs1rs3")
	f.lists("with a specific service", six+`
    TCP 00:59  SYN_RECV    172.16.0.5:20024   10.0.0.100:80      10.0.0.11:80
    TCP 00:59  SYN_RECV    172.16.0.5:20025   10.0.0.100:443     10.0.0.13:443`)
	f.expect("table", f.table("-t 10.0.0.100:0"), "1 1/0 2 2/0 3 4/0")
	f.expect("table", f.table(web80), "1 1/0")

	// Here lvx differs on purpose: ipvsadm refuses port 0 without -p.
	f.ipvsadm(strings.NewReplacer("100:80", "101:0").Replace(persistent("rr -p 60")))
	f.state.Services[len(f.state.Services)-1].Persistence = lb.Persistence{}
	f.apply(f.state)
	got := ""
	for _, port := range []string{"80", "443", "22", "80"} {
		got += f.conn("172.16.0.5", "10.0.0.101:"+port, "S")
	}
	f.expect("without -p", got, "rs3rs2rs1rs3")
}

// ipvs-facts/08 section 7: two persistent services, two templates a client.
func TestFacts08TwoServices(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(persistent("rr -p 60"))
	f.ipvsadm(strings.ReplaceAll(persistent("rr -p 60"), ":80", ":443"))
	f.port = 20025
	to := func(client, port string) string { return f.conn("172.16.0."+client, "10.0.0.100:"+port, "S") }
	f.expect(".5", to("5", "80")+to("5", "80")+to("5", "443")+" "+f.send(lb.TCP, "172.16.0.5:20029", "10.0.0.100:443", "S"), "rs3rs3rs3 rs3")
	f.port = 20029
	f.expect(".6", to("6", "443")+to("6", "80"), "rs2rs2")
	f.lists("connections", `
    TCP 00:59  SYN_RECV    172.16.0.5:20029   10.0.0.100:443     10.0.0.13:443
    TCP 00:59  SYN_RECV    172.16.0.5:20026   10.0.0.100:80      10.0.0.13:80
    TCP 00:59  SYN_RECV    172.16.0.6:20031   10.0.0.100:80      10.0.0.12:80
    TCP 00:59  NONE        172.16.0.6:0       10.0.0.100:80      10.0.0.12:80
    TCP 00:59  NONE        172.16.0.6:0       10.0.0.100:443     10.0.0.12:443
    TCP 00:59  SYN_RECV    172.16.0.5:20027   10.0.0.100:80      10.0.0.13:80
    TCP 00:59  NONE        172.16.0.5:0       10.0.0.100:443     10.0.0.13:443
    TCP 00:59  NONE        172.16.0.5:0       10.0.0.100:80      10.0.0.13:80
    TCP 00:59  SYN_RECV    172.16.0.6:20030   10.0.0.100:443     10.0.0.12:443
    TCP 00:59  SYN_RECV    172.16.0.5:20028   10.0.0.100:443     10.0.0.13:443`)
}

// ipvs-facts/08 section 8: one template for all ports and protocols of a
// mark (PFWM).
func TestFacts08Mark(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.marks["1"] = []lb.Listener{
		{Addr: vip, Proto: lb.TCP, First: 80, Last: 80}, {Addr: vip, Proto: lb.TCP, First: 443, Last: 443},
		{Addr: vip, Proto: lb.UDP, First: 53, Last: 53},
	}
	f.ipvsadm(strings.ReplaceAll(persistent("rr -p 60"), "-t 10.0.0.100:80", "-f 1"))
	f.port = 20031
	to := func(client, port string) string { return f.conn("172.16.0."+client, "10.0.0.100:"+port, "S") }
	f.expect(".5", to("5", "80")+to("5", "443")+f.send(lb.UDP, "172.16.0.5:5000", "10.0.0.100:53", ""), "rs3rs3rs3")
	f.expect(".6", to("6", "443")+to("6", "80"), "rs2rs2")
	f.lists("connections", `
    IP  00:59  NONE        172.16.0.6:0       0.0.0.1:0          10.0.0.12:0
    UDP 04:59  UDP         172.16.0.5:5000    10.0.0.100:53      10.0.0.13:53
    TCP 00:59  SYN_RECV    172.16.0.5:20033   10.0.0.100:443     10.0.0.13:443
    TCP 00:59  SYN_RECV    172.16.0.5:20032   10.0.0.100:80      10.0.0.13:80
    IP  00:59  NONE        172.16.0.5:0       0.0.0.1:0          10.0.0.13:0
    TCP 00:59  SYN_RECV    172.16.0.6:20035   10.0.0.100:80      10.0.0.12:80
    TCP 00:59  SYN_RECV    172.16.0.6:20034   10.0.0.100:443     10.0.0.12:443`)
	f.expect("table", f.table("-f 1"), "1 0/0 2 2/0 3 2/1")
	f.persists("1 0 2 1 3 1")
}

// ipvs-facts/08 section 9: the scheduler is asked for new templates only.
func TestFacts08SchedulerForNewTemplates(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(persistent("wrr -p 60"))
	got := ""
	for range 9 {
		got += f.from("0.5", "S")
	}
	f.expect(".5", got, strings.Repeat("rs3", 9))
	f.expect("others", f.from("0.6", "S")+f.from("0.7", "S")+f.from("0.8", "S")+f.from("0.9", "S"), "rs2rs1rs3rs2")
}

// ipvs-facts/08 section 10: -E with live templates. Here lvx differs on
// purpose: the kernel's templates keep the timeout that they were made with;
// lvx's follow the file from the next connection on.
func TestFacts08EditPersistence(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(persistent("wrr -p 60"))
	f.expect("first", f.from("0.5", "S"), "rs3")
	is := func(what, left string) {
		t.Helper()
		f.template(what, "172.16.0.5", "TCP "+left+" NONE 172.16.0.5:0 10.0.0.100:80 10.0.0.13:80")
	}
	f.ipvsadm("ipvsadm -E -t 10.0.0.100:80 -s rr -p 500")
	is("after -E -p 500", "00:59")
	f.expect("new conn", f.from("0.5", "S"), "rs3")
	is("after a new conn", "08:19") // kernel: 00:59
	f.ipvsadm("ipvsadm -E -t 10.0.0.100:80 -s rr")
	is("after -E without -p", "08:19")
	f.expect("new conns", f.from("0.5", "S")+f.from("0.5", "S")+f.from("0.5", "S"), "rs3rs2rs1")
	f.ipvsadm("ipvsadm -E -t 10.0.0.100:80 -s rr -p 60")
	f.expect("-p again", f.from("0.5", "S")+f.from("0.5", "S"), "rs3rs3")
	is("at the end", "00:59")
}

// ipvs-facts/08b section 1: -p 300, an established connection lives on:
// renewals are 60 s, also by a new connection after that.
func TestFacts08bRenewalIsAMinute(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(persistent("rr -p 300"))
	f.expect("t=0", f.from("0.5", "S A"), "rs3")
	is := func(what, left string) {
		t.Helper()
		f.template(what, "172.16.0.5", "TCP "+left+" ASSURED 172.16.0.5:0 10.0.0.100:80 10.0.0.13:80")
	}
	f.wait(270)
	is("t=270", "00:29")
	f.wait(10)
	is("t=280", "00:19")
	f.wait(35) // the kernel's timer is late by up to 13 s from here on
	is("t=315", "00:44")
	f.wait(30)
	is("t=345", "00:14")
	f.wait(35)
	is("t=380", "00:39")
	f.wait(20)
	f.expect("t=400 new conn", f.from("0.5", "S"), "rs3")
	is("new conn", "00:59")
	f.wait(45)
	is("+45", "00:14")
	f.tcp(20001, "R")
	f.wait(80)
	f.expect("conn A reset, +80 s", f.tpl("172.16.0.5"), "gone")
	f.expect("another client, then the same", f.from("0.6", "S")+f.from("0.5", "S"), "rs2rs1")
	f.template("scheduled anew", "172.16.0.5", "TCP 04:59 NONE 172.16.0.5:0 10.0.0.100:80 10.0.0.11:80")
}

// ipvs-facts/08b section 2: the connection ends by FIN at 200 s.
func TestFacts08bTemplateFollowsFinWait(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(persistent("rr -p 60"))
	f.expect("t=0", f.from("0.5", "S A"), "rs3")
	f.wait(200)
	f.tcp(20001, "FA")
	for past := 0; past < 150; past += 10 {
		if f.tpl("172.16.0.5") == "gone" {
			t.Errorf("+%d: the template is gone", past)
		}
		if expired := f.expires(20001) == "gone"; expired != (past > 120) {
			t.Errorf("+%d: connection %s", past, f.expires(20001))
		}
		f.wait(10)
	}
	f.wait(20)
	f.lists("+170", "")
}

// ipvs-facts/08b section 3 and 4: others in between change nothing; without a
// live connection the template ends.
func TestFacts08bReturningClient(t *testing.T) {
	h := newStill(t, 4096, 1024)
	for _, c := range []struct{ flags, want string }{{"S A", "rs3"}, {"S A R", "rs1"}} {
		f := h.replay(t)
		f.ipvsadm(persistent("rr -p 60"))
		f.expect("first", f.from("0.5", c.flags), "rs3")
		f.wait(65)
		f.from("0.6", "S")
		f.wait(65)
		f.expect("after 130 s", f.from("0.5", "S"), c.want)
	}
}

// ipvs-facts/08b section 5: weight 0 on every real.
func TestFacts08bAllQuiesced(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(persistent("rr -p 60"))
	f.expect("first", f.from("0.5", "S A"), "rs3")
	for n := 1; n <= 3; n++ {
		f.ipvsadm(fmt.Sprintf("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.1%d -g -w 0", n))
	}
	f.expect("template client", f.from("0.5", "S"), "rs3")
	f.expect("new client", f.from("0.6", "S"), "icmp 3/3")
}

// ipvs-facts/08b section 7: entries end in time; the kernel's timer wheel is
// up to 13 s late.
func TestFacts08bExpiryIsExact(t *testing.T) {
	h := newStill(t, 4096, 1024)
	for _, c := range []struct {
		flags   string
		seconds int
	}{{"S", 60}, {"S A R", 10}, {"S A FA", 120}, {"S FA", 120}, {"S A", 900}} {
		f := h.replay(t)
		f.ipvsadm(threeReals)
		f.from("0.5", c.flags)
		f.wait(c.seconds - 1)
		if f.expires(20001) == "gone" {
			t.Errorf("%s: gone before %d s", c.flags, c.seconds)
		}
		f.wait(3)
		f.expect(c.flags, f.expires(20001), "gone")
	}
}
