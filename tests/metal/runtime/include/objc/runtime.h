// tests/metal/runtime/include/objc/runtime.h: the part of the Objective-C
// runtime that metal-cpp and the Metal device call; runtime.cpp has it.
#pragma once

struct objc_object {};
typedef struct objc_object* id;
typedef struct objc_class* Class;
typedef struct objc_selector* SEL;
typedef struct objc_protocol Protocol;

extern "C" {
Class objc_lookUpClass(const char* name);
Protocol* objc_getProtocol(const char* name);
Class* objc_copyClassList(unsigned* count);
Class object_getClass(id object);
bool class_respondsToSelector(Class kind, SEL selector);
SEL sel_registerName(const char* name);
}
