package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv/rig"
)

// script are commands of every kind that edits, each with a word of what it has
// to leave in the rules, or "!" and what it must not.
var script = []struct{ command, leaves string }{
	{"ipvsadm -A -t VIP:80 -s rr", "-t VIP:80 -s rr"},
	{"ipvsadm -a -t VIP:80 -r 172.25.0.12", "172.25.0.12:80 -g -w 1"},
	{"ipvsadm -a -t VIP:80 -r 172.25.0.13 -w 3", "172.25.0.13:80 -g -w 3"},
	{"ipvsadm -e -t VIP:80 -r 172.25.0.12 -w 0", "172.25.0.12:80 -g -w 0"},
	{"ipvsadm -e -t VIP:80 -r 172.25.0.13 -w 2 -x 10 -y 5", "172.25.0.13:80 10 5"},
	{"ipvsadm -E -t VIP:80 -s wrr -p 60", "-t VIP:80 -s wrr -p 60"},
	{"ipvsadm -A -t VIP:81 -s wlc -p 90 -M 255.255.255.0", "-t VIP:81 -s wlc -p 90 -M 255.255.255.0"},
	{"ipvsadm -a -t VIP:81 -r 172.25.0.12 -w 7", "VIP:81 -r 172.25.0.12:81 -g -w 7"},
	{"ipvsadm -A -u VIP:53 -s sh -b sh-port", "-u VIP:53 -s sh"},
	{"ipvsadm -a -u VIP:53 -r 172.25.0.13", "-u VIP:53 -r 172.25.0.13:53"},
	{"ipvsadm -A -f 7 -s rr -p", "-f 7 -s rr -p 360"},
	{"ipvsadm -a -f 7 -r 172.25.0.12", "-f 7 -r 172.25.0.12:0"},
	{"ipvsadm --set 100 20 30", "100 20 30"},
	{"ipvsadm -Z -t VIP:80", "100 20 30"},
	{"ipvsadm -d -t VIP:81 -r 172.25.0.12", "!VIP:81 -r"},
	{"ipvsadm -D -t VIP:81", "!VIP:81"},
	{"printf '%s\n' '-A -t VIP:82 -s lc' '-a -t VIP:82 -r 172.25.0.13' '-D -f 7' | ipvsadm -R", "-t VIP:82 -r 172.25.0.13:82"},
	{"ipvsadm -Sn >rules", "-t VIP:82 -s lc"},
	{"ipvsadm -C", "!-A"},
	{"ipvsadm -R <rules", "-t VIP:82 -s lc"},
	{"ipvsadm -D -t VIP:82", "!VIP:82"},
}

// ruled is all that the commands have set.
func (s typed) ruled() string {
	s.Helper()
	return s.mustType("ipvsadm -S -n; ipvsadm -L --timeout; ipvsadm -L -n --thresholds | awk '{print $1, $2, $3, $4}'")
}

// A daemon that is killed the moment a command has been answered, whichever,
// has lost neither that command nor those before it, and no connection.
func TestRuntimeSurvivesKill(t *testing.T) {
	t.Parallel()
	s := newTyped(t)
	atVIP := strings.NewReplacer("VIP", rig.VIP)
	var conn net.Conn
	for n, c := range script {
		s.mustType(atVIP.Replace(c.command))
		rules := s.ruled()
		word, isAbsent := strings.CutPrefix(atVIP.Replace(c.leaves), "!")
		if strings.Contains(rules, word) == isAbsent {
			t.Fatalf("after %s:\n%s", c.command, rules)
		}
		s.Kill("d1")
		must(t, s.Start(t.Context(), "d1"))
		s.want("after "+c.command+" and kill -9", s.ruled(), rules)
		switch {
		case n == 1:
			held, err := s.Hold("r1")
			must(t, err)
			defer held.Close()
			conn = held
		case conn != nil && strings.Contains(rules, rig.VIP+":80 -r 172.25.0.12"):
			name, err := rig.Ask(conn)
			if err != nil || name != "r1" {
				t.Fatalf("the connection, after %s: %s %v", c.command, name, err)
			}
		}
	}
}

// Rules that are cleared and restored by two commands, each followed by kill -9,
// take their connections along, those that are busy in between, too.
func TestRuntimeRestoreSurvivesKill(t *testing.T) {
	s := newTyped(t)
	s.mustType("ipvsadm -A -t " + rig.VIP + ":80 -s rr && ipvsadm -a -t " + rig.VIP + ":80 -r 172.25.0.12 && ipvsadm -a -t " + rig.VIP + ":80 -r 172.25.0.13")
	s.mustType("ipvsadm -Sn >rules")
	load, err := s.Load(rig.Demand{PerSecond: 20, Long: 8, Most: 2000})
	must(t, err)
	must(t, load.Await(t.Context(), 10))
	must(t, load.Cut(func() error {
		for _, command := range []string{"ipvsadm -C", "ipvsadm -R <rules"} {
			s.mustType(command)
			s.Kill("d1")
			if err := s.Start(t.Context(), "d1"); err != nil {
				return err
			}
		}
		return nil
	}))
	s.mustType("ipvsadm -Sn | cmp - rules")
	must(t, load.Await(t.Context(), 10))
	summary, err := load.Stop()
	t.Log(summary)
	must(t, err)
}

// Saving, restoring over what runs, and saving again is the same, and no
// connection notices; a table of 12,700 rules comes into force at once.
func TestRuntimeRestore(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := newTyped(t)
	s.mustType("ipvsadm -A -t " + rig.VIP + ":80 -s rr && ipvsadm -a -t " + rig.VIP + ":80 -r 172.25.0.12 && ipvsadm -a -t " + rig.VIP + ":80 -r 172.25.0.13")
	conn, err := s.Hold("r1")
	must(t, err)
	defer conn.Close()
	s.mustType("ipvsadm-save -n > rules && ipvsadm-restore < rules && ipvsadm -Sn | cmp - rules")
	var rules strings.Builder
	for n := range 4234 {
		at := fmt.Sprintf("-t %s:%d", rig.VIP, 10000+n)
		fmt.Fprintf(&rules, "-A %s -s wrr\n-a %s -r 172.25.0.12 -w 2\n-a %s -r 172.25.0.13 -w 1\n", at, at, at)
	}
	must(t, os.WriteFile(filepath.Join(s.dir, "many"), []byte(rules.String()), 0o600))
	began := time.Now()
	s.mustType("ipvsadm -R < many")
	t.Logf("%d rules in %v", strings.Count(rules.String(), "\n"), time.Since(began))
	if n := strings.Count(s.mustType("ipvsadm -S -n"), "\n"); n != 3+strings.Count(rules.String(), "\n") {
		t.Errorf("%d rules are saved", n)
	}
	name, err := rig.Ask(conn)
	must(t, err)
	s.want("the connection that was there", name, "r1")
	s.want("who answers", s.curl(2, 80), "r2 r1")
}
