package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// Every expression of the alert rules and of the dashboard is evaluated by a
// real Prometheus that scrapes a live lvx, and returns data.
func TestPrometheusEvaluatesExpressions(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{})
	d1 := r.Cluster.Host("d1")
	run(t, d1, "iptables", "-A", "INPUT", "-d", rig.VIP, "-j", "DROP") // a warning
	body := "vrrp:\n  - {name: VI_1, interface: eth0, virtual_router_id: 51, addresses: [" + rig.VIP + "/24]}\n" +
		"services:\n  - name: web\n    listen: [\"" + rig.VIP + ":80/tcp\"]\n    scheduler: rr\n" +
		"    check: {type: tcp, port: 80, interval: 1s, timeout: 1s}\n" +
		"    reals: [{address: 172.25.0.12}, {address: 172.25.0.13}, {address: 172.25.0.99}]\n"
	file, err := r.Config("d1", body)
	must(t, err)
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, []byte(strings.Replace(string(text), "admin: {", "admin: {listen: \"127.0.0.1:9100\", ", 1)), 0o600))
	must(t, r.Start(t.Context(), "d1"))

	dir := t.TempDir()
	rules, err := filepath.Abs("../../contrib/prometheus/lvx.rules.yaml")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: ["+rules+"]\n"+
		"scrape_configs:\n  - job_name: lvx\n    static_configs: [{targets: [\"127.0.0.1:9100\"]}]\n"), 0o600))
	p, err := d1.Start("prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:9090")
	must(t, err)
	defer func() { _ = p.Stop() }()

	for _, e := range append(ruleExpressions(t, rules), dashboardExpressions(t, "../../contrib/grafana/lvx.json")...) {
		eventually(t, func() error {
			_, _ = r.Client.Run(t.Context(), "curl", "-s", "--max-time", "1", "http://"+rig.VIP+"/") // packets to count
			out, err := d1.Run(t.Context(), "curl", "-sS", "--max-time", "5", "http://127.0.0.1:9090/api/v1/query?query="+url.QueryEscape(e))
			if err != nil {
				return err
			}
			var answer struct {
				Status, Error string
				Data          struct{ Result []json.RawMessage }
			}
			if err := json.Unmarshal([]byte(out), &answer); err != nil {
				return fmt.Errorf("%w in %s", err, out)
			}
			if answer.Status != "success" || len(answer.Data.Result) == 0 {
				return fmt.Errorf("%s: %s %s, %d results", e, answer.Status, answer.Error, len(answer.Data.Result))
			}
			return nil
		})
	}
}

// ruleExpressions are the expressions of alert rules without the comparison
// that makes them an alert: all is well here.
func ruleExpressions(t *testing.T, file string) (all []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	comparison := regexp.MustCompile(`\s*(==|>)\s*[0-9.]+$`)
	for _, line := range regexp.MustCompile(`(?m)^\s+expr: (.*)$`).FindAllStringSubmatch(string(b), -1) {
		if !comparison.MatchString(line[1]) {
			t.Errorf("%q ends in no comparison", line[1])
		}
		all = append(all, comparison.ReplaceAllString(line[1], ""))
	}
	if alerts := strings.Count(string(b), "- alert:"); len(all) != alerts || alerts == 0 {
		t.Errorf("%d expressions of %d alerts", len(all), alerts)
	}
	return all
}

// dashboardExpressions are the expressions of a dashboard, with its variables
// filled in.
func dashboardExpressions(t *testing.T, file string) (all []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	var doc struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	must(t, json.Unmarshal(b, &doc))
	fill := strings.NewReplacer("$instance", ".*", "$__rate_interval", "10s")
	for _, p := range doc.Panels {
		for _, target := range p.Targets {
			all = append(all, fill.Replace(target.Expr))
		}
	}
	return all
}
