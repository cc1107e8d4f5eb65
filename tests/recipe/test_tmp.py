import time
from hypothesis import given, settings, HealthCheck
from strategies import *
from llmrecipe.recipe import checks, names
n=[0];t0=time.time();tc=[0]
@given(recipes())
def test_a(r):
    n[0]+=1
    t=time.time(); v=checks.violations(r); tc[0]+=time.time()-t
    assert v==[]
def test_z():
    print(n, time.time()-t0, tc)
@given(recipe_sets())
def test_b(rs):
    for r in rs: assert checks.violations(r)==[]
    assert list(names.clashes(rs))==[]
@given(sections)
def test_c(s): pass
