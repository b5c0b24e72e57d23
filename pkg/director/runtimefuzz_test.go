package director

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Whatever the disk has made of a layer: it is served, or refused, and no two
// services have one name.
func FuzzRuntime(f *testing.F) {
	for _, seed := range []string{
		`{"services":[{"name":"tcp-10-0-0-100-443","Proto":6,"Addr":"10.0.0.100","Port":443,"Scheduler":"wrr","servers":[{"Addr":"10.0.0.21","Port":443,"Weight":2}]}]}`,
		`{"services":[{"name":"web"},{"name":"web"},{"name":""}],"patches":[{"service":"web","removed":true},{"service":"web","settings":{}}]}`,
		`{"patches":[{"service":"web","settings":{"Scheduler":"nosuch","Persistent":-1,"Prefix":300},"added":[{},{}],"changed":[{"Addr":"10.0.0.11","Weight":-7}],"dropped":["10.0.0.12:80",""]}],"timeouts":[-1,0,9999999999]}`,
		`{"zeroed":[{"name":"web","reals":[{"real":"10.0.0.11:0"}]}],"daemons":[{"ID":-1}]}`,
	} {
		f.Add([]byte(seed))
	}
	rt := Runtime{}
	table := newRuntimeTable(configOf(service("web", 1, 2)), &rt)
	for _, c := range commandsOf(f, vipRules+"-e -t 10.0.0.100:80 -r 10.0.0.11 -w 9\n-A -f 7 -s sh -b sh-port -p 60\n-a -f 7 -r 10.0.0.31\n--set 1 2 3\n") {
		table.do(c)
	}
	stored, err := json.Marshal(table.layer())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(stored)
	f.Fuzz(func(t *testing.T, b []byte) {
		var rt Runtime
		if json.Unmarshal(b, &rt) != nil {
			return
		}
		file := configOf(service("web", 1, 2), service("tcp-10-0-0-100-443", 3))
		file.Services[1].Listeners = []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 8443, Last: 8443}}
		next, _ := rt.rebase(file)
		if again, dropped := next.rebase(file); !reflect.DeepEqual(again, next) && len(dropped) == 0 {
			t.Fatalf("%+v is another layer once more: %+v", next, again)
		}
		cfg := next.merge(file, nil)
		names := map[string]bool{}
		for _, s := range cfg.Services {
			if names[s.Name] {
				t.Fatalf("two services are %q", s.Name)
			}
			names[s.Name] = true
		}
		_ = next.changesSince(&rt)
		Plan(Input{Config: cfg, Memory: Memory{}})
	})
}
